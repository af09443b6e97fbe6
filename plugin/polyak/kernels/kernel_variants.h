// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/kernels/span.h"

namespace polyak::kernels {

/// How large arrays are walked through; small ones always in order. Averages larger than the caches
/// take 4 to 10 % less time by prefetching on a Xeon with AVX-512, and up to 11 % more on an EPYC
/// with AVX2. There they take 10 to 15 % less when both halves of an array are interleaved.
enum class Walk { in_order, prefetching, interleaved };

/// Those of one instruction set.
struct Paths {
  Path in_order, prefetching, interleaved;
};

// One source each, compiled with the flags of its instruction set (plugin/CMakeLists.txt).
Paths avx512_paths();
Paths avx2_paths();
Paths portable_paths();
Path reference_path();

}  // namespace polyak::kernels
