// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

namespace polyak {

/// Where a value was written; for values of mappings, the place of the key. Line and column count
/// from 1. Line 0 means that the value is not from a file; `file` then names its origin, as in
/// "--cfg-options a.b=1".
struct Place {
  std::string file;  // or what else it came from
  int line = 0;      // from 1; 0: in no file
  int column = 0;    // from 1
  /// The whole file, for messages; null: unknown.
  std::shared_ptr<const std::string> text = nullptr;
};

}  // namespace polyak
