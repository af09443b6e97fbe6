// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp_loops.h"
#include "polyak/kernels/lerp_paths.h"

namespace polyak::kernels {

Path reference_path() {
  return path<Walk::in_order>("reference");
}

}  // namespace polyak::kernels
