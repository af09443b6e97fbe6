// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/tensor_mode.h"

namespace polyak {

std::string tensor_mode_name(TensorMode mode) {
  switch (mode) {
    case TensorMode::copy:
      return "copy";
    case TensorMode::share:
      return "share";
    case TensorMode::keep:
      return "keep";
    default:
      return "average";
  }
}

}  // namespace polyak
