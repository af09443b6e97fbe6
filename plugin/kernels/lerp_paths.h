#pragma once

#include "polyak/kernels/lerp.h"

namespace polyak::kernels {

// One source each, compiled with the flags of its instruction set (plugin/CMakeLists.txt).
// `prefetches`: ask for what lies ahead in large arrays, where the CPU gains by it.
Path avx512_path(bool prefetches);
Path avx2_path(bool prefetches);
Path portable_path(bool prefetches);
Path reference_path();

}  // namespace polyak::kernels
