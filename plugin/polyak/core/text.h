// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// The text with ASCII letters in lower case.
inline std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// "1.5 MB".
POLYAK_API std::string size_text(int64_t bytes);

/// A name for a message: as it is, unless it is very long.
std::string shortened(const std::string& name);

/// Names for a message: the first few, and the number of the others.
POLYAK_API std::string list_names(const std::vector<std::string>& names, size_t shown = 8);

}  // namespace polyak
