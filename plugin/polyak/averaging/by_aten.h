// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "polyak/averaging/slot.h"

// The same arithmetic as the kernels by LibTorch's own operations, for every tensor that no kernel
// takes: other devices, complex numbers, strides that differ.
namespace polyak {

/// average += weight * (source - average); exact at weight 1.
void lerp_by_aten(const at::Tensor& average, const at::Tensor& source, double weight);
/// The same for a slot, with what rounding took away where the slot keeps it.
void lerp_by_aten(const Slot& slot, double weight);

/// A compensated average in float64, which holds all of it.
at::Tensor widen_compensated(const at::Tensor& average, const at::Tensor& residual);
/// Rounds a float64 tensor to float32 and what that loses, in int16.
void narrow_compensated(const at::Tensor& wide, const at::Tensor& average,
                        const at::Tensor& residual);

/// Whether no element is NaN or infinite. Waits for the tensors' devices, once for each.
bool are_finite_by_aten(const std::vector<at::Tensor>& tensors);

}  // namespace polyak
