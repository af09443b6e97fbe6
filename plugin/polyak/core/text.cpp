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

std::string size_text(int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  const double size = static_cast<double>(bytes);
  if (bytes < 1000000) return fmt::format("{:.4g} kB", size / 1e3);
  return bytes < 1000000000 ? fmt::format("{:.4g} MB", size / 1e6)
                            : fmt::format("{:.4g} GB", size / 1e9);
}

}  // namespace polyak
