// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// A module derives from this if its tensors have the same shapes whatever some of its sizes are,
/// such as the number of attention heads, but mean something else. So weights can be checked
/// against what a key map knows of their family (runtime/key_maps.h).
class POLYAK_API UnseenSizes {
 public:
  virtual ~UnseenSizes();
  /// Names and values of these sizes, such as `num_heads`.
  virtual std::vector<std::pair<std::string, int64_t>> unseen_sizes() const = 0;
};

}  // namespace polyak
