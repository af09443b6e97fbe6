// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// What did not fit when values were loaded by name.
struct LoadReport {
  std::vector<std::string> missing;     // averaged, but not given
  std::vector<std::string> unexpected;  // given, but not averaged
  std::vector<std::string>
      mismatched;  // "name [2, 3] instead of [2, 4]", "name in Char instead of Float"
  /// Whether everything fits.
  bool clean() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
  /// One line that lists them, for a message.
  POLYAK_API std::string text() const;
};

}  // namespace polyak
