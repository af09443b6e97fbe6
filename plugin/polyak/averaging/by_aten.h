// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "polyak/averaging/slot.h"

// The arithmetic of the kernels with LibTorch's own operations, for tensors that no kernel
// supports: other devices, complex numbers, strides that differ.
namespace polyak {

/// average += weight * (source - average); exact at weight 1.
void lerp_by_aten(const at::Tensor& average, const at::Tensor& source, double weight);
/// The same for a slot, including its residual if it has one.
void lerp_by_aten(const Slot& slot, double weight);

/// A compensated average in float64, which holds it exactly.
at::Tensor widen_compensated(const at::Tensor& average, const at::Tensor& residual);
/// Splits a float64 tensor into float32 and an int16 residual.
void narrow_compensated(const at::Tensor& wide, const at::Tensor& average,
                        const at::Tensor& residual);

/// Whether no element is NaN or infinite. Waits for the tensors' devices, once for each.
bool are_finite_by_aten(const std::vector<at::Tensor>& tensors);

}  // namespace polyak
