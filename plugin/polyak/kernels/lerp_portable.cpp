// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/kernel_variants.h"
#include "polyak/kernels/lerp_loops.h"

namespace polyak::kernels {

TraversalVariants portable_variants() {
  return {variant<Traversal::in_order>("portable"),
          variant<Traversal::prefetching>("portable, prefetching"),
          variant<Traversal::interleaved>("portable, interleaved")};
}

}  // namespace polyak::kernels
