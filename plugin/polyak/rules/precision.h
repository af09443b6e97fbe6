// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// The precision in which an average is stored.
enum class Precision {
  standard,     // "default": the model's dtype; float32 for float16 and bfloat16
  compensated,  // if that is float32, 16 more bits per number (2 bytes per parameter), so that
                // small updates are not lost to rounding
  float64,      // whatever the model's dtype
};
/// The name in configs: "default", "compensated" or "float64".
POLYAK_API std::string precision_name(Precision precision);
/// @throws OptionError for another name
POLYAK_API Precision parse_precision(const std::string& name);

}  // namespace polyak
