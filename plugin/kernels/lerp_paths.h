#pragma once

#include "polyak/kernels/lerp.h"

namespace polyak::kernels {

// One source each, compiled with the flags of its instruction set (plugin/CMakeLists.txt).
Path avx512_path();
Path avx2_path();
Path portable_path();
Path reference_path();

}  // namespace polyak::kernels
