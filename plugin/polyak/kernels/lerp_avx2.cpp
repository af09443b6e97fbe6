// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/kernel_variants.h"
#include "polyak/kernels/lerp_loops.h"

namespace polyak::kernels {

TraversalVariants avx2_variants() {
  return {variant<Traversal::in_order>("avx2"),
          variant<Traversal::prefetching>("avx2, prefetching"),
          variant<Traversal::interleaved>("avx2, interleaved")};
}

}  // namespace polyak::kernels
