// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/metric_direction.h"

#include "polyak/core/text.h"

namespace polyak {

std::optional<bool> larger_is_better(const std::string& metric) {
  const std::string name = lower_case(metric);
  for (const char* word : {"acc", "top", "ar@", "auc", "precision", "map", "mdice", "miou"}) {
    if (name.find(word) != std::string::npos) return true;
  }
  if (name.find("loss") != std::string::npos) return false;
  return std::nullopt;
}

}  // namespace polyak
