// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/kernel_variants.h"
#include "polyak/kernels/lerp_loops.h"

namespace polyak::kernels {

KernelVariant reference_variant() {
  return variant<Traversal::in_order>("reference");
}

}  // namespace polyak::kernels
