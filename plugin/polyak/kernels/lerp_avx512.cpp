// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp_loops.h"
#include "polyak/kernels/lerp_paths.h"

namespace polyak::kernels {

Paths avx512_paths() {
  return {path<Walk::in_order>("avx512"), path<Walk::prefetching>("avx512, prefetching"),
          path<Walk::interleaved>("avx512, interleaved")};
}

}  // namespace polyak::kernels
