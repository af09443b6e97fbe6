// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// What an average does with a tensor of the model.
enum class TensorMode {
  average,  // averages it; integers are copied whenever the others are averaged
  copy,     // copies it at every update
  share,    // has no tensor of its own: the model's storage, or a copy at every update where device
            // or dtype differ
  keep,     // keeps the value of the first update
};
/// "average", "copy", "share" or "keep".
POLYAK_API std::string tensor_mode_name(TensorMode mode);

}  // namespace polyak
