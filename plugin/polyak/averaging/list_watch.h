// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/TensorImpl.h>
#include <c10/core/UndefinedTensorImpl.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/slot.h"

namespace polyak {

/// Detects tensors of a list that are no longer trained: unlike in a module, names do not show that
/// a parameter was replaced.
class ListWatch {
 public:
  /// @param averages shared by the list and by the averages that are bound to it
  explicit ListWatch(std::shared_ptr<const void> averages) : averages_(std::move(averages)) {}

  /// Leaves that require a gradient, and that only the list and its averages hold.
  std::vector<std::string> held_by_nobody_else(const Slots& slots) const;
  /// Leaves that had new gradients before, but none since the last call, although another leaf did.
  std::vector<std::string> without_new_gradient(const Slots& slots);

 private:
  struct Gradient {
    // A weak pointer keeps the address from being reused, but not the values alive.
    std::optional<c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>> tensor;
    uint32_t version = 0;
    bool trained = false;
  };

  std::shared_ptr<const void> averages_;
  std::vector<Gradient> gradients_;
};

}  // namespace polyak
