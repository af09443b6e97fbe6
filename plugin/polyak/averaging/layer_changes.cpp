// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/layer_changes.h"

#include <fmt/ranges.h>

#include "polyak/core/text.h"

namespace polyak {

std::string LayerChanges::text() const {
  std::vector<std::string> parts;
  const auto add = [&](const char* what, const std::vector<std::string>& names, const char* then) {
    if (!names.empty()) parts.push_back(fmt::format("{} {} ({})", what, list_names(names), then));
  };
  add("added", added, "averaged from a copy on");
  add("removed", removed, "left the average");
  add("of another shape", restarted, "averaged from a copy on");
  add("renamed", renamed, "the average continues");
  add("replaced", replaced, "the average continues");
  if (parts.empty() && ties) parts.emplace_back("other tensors are tied");
  if (parts.empty()) return {};
  return fmt::format("the model's layers changed: {}", fmt::join(parts, "; "));
}

}  // namespace polyak
