// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/kernel_variants.h"
#include "polyak/kernels/lerp_loops.h"

namespace polyak::kernels {

TraversalVariants avx512_variants() {
  return {variant<Traversal::in_order>("avx512"),
          variant<Traversal::prefetching>("avx512, prefetching"),
          variant<Traversal::interleaved>("avx512, interleaved")};
}

}  // namespace polyak::kernels
