// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp_loops.h"
#include "polyak/kernels/lerp_paths.h"

namespace polyak::kernels {

Paths portable_paths() {
  return {path<Walk::in_order>("portable"), path<Walk::prefetching>("portable, prefetching"),
          path<Walk::interleaved>("portable, interleaved")};
}

}  // namespace polyak::kernels
