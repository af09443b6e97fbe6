// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/util/accumulate.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "polyak/rules/tensor_mode.h"

namespace polyak {

/// One distinct tensor of a model and its average.
struct Slot {
  std::string name;          // the first one, when the tensor has several
  at::Tensor source;         // the model's own tensor
  at::Tensor module_tensor;  // its counterpart in the averaged module; follows the model's dtype
  at::Tensor average;        // module_tensor, or a tensor of its own if it has a wider dtype
  at::Tensor residual;       // int16, next to a compensated float32 average: see kernels/element.h
  bool buffer = false;
  std::vector<at::Tensor> aliases;  // counterparts under further names: module_tensor's storage
  // The dtype and device of `source` when `module_tensor` last followed it: a later cast of the
  // average alone stays.
  at::ScalarType followed_dtype;
  c10::Device followed_device;
  TensorMode mode = TensorMode::average;  // what an update does with it
  bool shared = false;  // module_tensor has the source's storage, and must not be written
  bool frozen = false;  // `mode` is TensorMode::share until the source requires a gradient

  /// Elements that this process averages, of several; `average` and `residual` are one-dimensional
  /// and hold only these, and `module_tensor` is empty.
  struct Part {
    int64_t begin = 0;
    int64_t end = 0;
    bool apart = false;          // whether the whole average is
    std::vector<int64_t> sizes;  // of the whole
    int64_t elements() const { return c10::multiply_integers(sizes); }
  };
  std::optional<Part> part = std::nullopt;

  /// Whether the average is stored separately from the averaged module's tensor.
  bool is_apart() const { return !average.is_same(module_tensor); }
};
using Slots = std::vector<Slot>;

/// The numbers of the model that belong to the slot's average.
inline at::Tensor source_of(const Slot& slot) {
  if (!slot.part) return slot.source;
  return slot.source.detach().view({-1}).narrow(0, slot.part->begin,
                                                slot.part->end - slot.part->begin);
}

/// Whether a tensor is averaged rather than copied. Complex ones are, unlike in the reference.
inline bool is_averageable(const at::Tensor& tensor) {
  return tensor.is_floating_point() || tensor.is_complex();
}

/// Whether updates average the slot's numbers.
inline bool is_averaged(const Slot& slot) {
  return slot.mode == TensorMode::average && is_averageable(slot.average);
}

/// Whether both are real, both complex, or both integer.
inline bool same_kind(const at::Tensor& a, const at::Tensor& b) {
  return a.is_floating_point() == b.is_floating_point() && a.is_complex() == b.is_complex();
}

}  // namespace polyak
