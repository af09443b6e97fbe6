// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// How finely an average is kept.
enum class Precision {
  standard,     // "default": the model's dtype; float32 for float16 and bfloat16
  compensated,  // where that is float32, 16 more bits of each number, 2 bytes a parameter, so that
                // small updates are not lost to rounding
  float64,      // whatever the model's dtype
};
/// The name in configs: "default", "compensated" or "float64".
POLYAK_API std::string precision_name(Precision precision);
/// @throws OptionError for another name
POLYAK_API Precision parse_precision(const std::string& name);

}  // namespace polyak
