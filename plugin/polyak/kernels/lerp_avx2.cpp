// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp_loops.h"
#include "polyak/kernels/lerp_paths.h"

namespace polyak::kernels {

Paths avx2_paths() {
  return {path<Walk::in_order>("avx2"), path<Walk::prefetching>("avx2, prefetching"),
          path<Walk::interleaved>("avx2, interleaved")};
}

}  // namespace polyak::kernels
