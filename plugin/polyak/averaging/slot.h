// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <string>
#include <vector>

namespace polyak {

/// One distinct tensor of a model and its average.
struct Slot {
  std::string name;    // the first one, when the tensor has several
  at::Tensor source;   // the model's own tensor
  at::Tensor held;     // its counterpart in the averaged module, which follows the model's dtype
  at::Tensor average;  // held itself, or apart from it where the average has a wider dtype
  at::Tensor lost;     // int16, beside a compensated float32 average: see kernels/element.h
  bool buffer = false;
  std::vector<at::Tensor> also;  // counterparts under further names; they share held's storage
  // What `source` was when `held` followed it last: a later cast of the average alone stays.
  at::ScalarType followed_dtype;
  c10::Device followed_device;
};

/// Averaged rather than copied: complex too, unlike the reference, which leaves such tensors alone.
inline bool is_averageable(const at::Tensor& tensor) {
  return tensor.is_floating_point() || tensor.is_complex();
}

}  // namespace polyak
