// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/load_report.h"

#include <fmt/ranges.h>

namespace polyak {

std::string LoadReport::text() const {
  std::vector<std::string> parts;
  if (!missing.empty()) parts.push_back(fmt::format("missing: {}", fmt::join(missing, ", ")));
  if (!unexpected.empty())
    parts.push_back(fmt::format("unexpected: {}", fmt::join(unexpected, ", ")));
  if (!mismatched.empty())
    parts.push_back(fmt::format("different shape or dtype: {}", fmt::join(mismatched, ", ")));
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace polyak
