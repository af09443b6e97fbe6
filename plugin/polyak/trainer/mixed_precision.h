// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// LibTorch's autocast until the end of a scope: operations that gain from it, such as
/// convolutions, compute in a smaller type. Weights keep theirs.
class POLYAK_API AutocastScope {
 public:
  /// @param dtype bfloat16 or float16; empty: nothing changes
  AutocastScope(std::optional<c10::ScalarType> dtype, c10::Device device);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  std::optional<c10::ScalarType> dtype_;
  c10::Device device_;
  bool was_enabled_ = false;
  c10::ScalarType old_dtype_ = c10::ScalarType::Float;
};

/// The factor of the loss that keeps small gradients of float16 from becoming zero, by the rule of
/// torch.cuda.amp.GradScaler: halved after a step whose gradients were not finite, and doubled
/// after 2000 others. Micikevicius et al. 2018, arXiv:1710.03740.
class POLYAK_API LossScale {
 public:
  LossScale() = default;
  /// @param constant a factor that never changes; empty: the rule's
  explicit LossScale(std::optional<double> constant) : is_dynamic_(!constant) {
    if (constant) scale_ = *constant;
  }

  double value() const { return scale_; }
  /// Divides the parameters' gradients by the factor. @return whether all of them are finite
  bool unscale(const std::vector<at::Tensor>& parameters) const;
  /// After each optimizer step, made or not: whether its gradients were finite.
  void update(bool finite);

  /// GradScaler's: {scale, growth_factor, backoff_factor, growth_interval, _growth_tracker}.
  Value state_dict() const;
  void load_state_dict(const Value& state);

 private:
  double scale_ = 65536;
  bool is_dynamic_ = true;
  int64_t growth_ = 0;  // steps since the factor changed
};

}  // namespace polyak
