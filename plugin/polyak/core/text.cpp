// SPDX-License-Identifier: Apache-2.0
#include "polyak/core/text.h"

#include <fmt/ranges.h>

namespace polyak {

std::string shortened(const std::string& name) {
  constexpr size_t kLongest = 120;
  return name.size() <= kLongest ? name : name.substr(0, kLongest) + "...";
}

std::string list_names(const std::vector<std::string>& names, size_t shown) {
  std::vector<std::string> first;
  for (const std::string& name : names) {
    if (first.size() == shown) break;
    first.push_back(shortened(name));
  }
  const std::string text = fmt::format("{}", fmt::join(first, ", "));
  return names.size() > shown ? fmt::format("{} and {} more", text, names.size() - shown) : text;
}

}  // namespace polyak
