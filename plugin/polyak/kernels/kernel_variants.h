// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/kernels/span.h"

namespace polyak::kernels {

/// The order in which a kernel reads large arrays; small ones are always read in order. For
/// averages larger than the caches, prefetching takes 4 to 10 % less time on a Xeon with AVX-512
/// and up to 11 % more on an EPYC with AVX2. Interleaving both halves of an array takes 10 to 15 %
/// less there.
enum class Traversal { in_order, prefetching, interleaved };

/// The variants of one instruction set, one for each traversal.
struct TraversalVariants {
  KernelVariant in_order, prefetching, interleaved;
};

// Each is in a source file of its own, compiled with the flags of its instruction set
// (plugin/CMakeLists.txt).
TraversalVariants avx512_variants();
TraversalVariants avx2_variants();
TraversalVariants portable_variants();
KernelVariant reference_variant();

}  // namespace polyak::kernels
