#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/kernels/lerp.h"

// How the CUDA kernel shares a model out, decided on the host: nothing here needs CUDA, so that a
// machine without a GPU tests it.
namespace polyak::kernels {

constexpr int64_t kCudaThreads = 256;  // of a block
constexpr int64_t kCudaWarps = kCudaThreads / 32;
constexpr int64_t kCudaVector = 4;  // elements that a thread reads at once from aligned arrays
/// A block reads this many float32 elements in one go, all loads in flight at once.
constexpr int64_t kCudaBlockElements = kCudaThreads * kCudaVector * 4;
/// A whole block for less would leave most of its threads idle: one warp takes it.
constexpr int64_t kCudaWarpElements = kCudaBlockElements / 4;

/// What one block or one warp averages: a part of one span. The kernel reads it by 16 bytes.
struct alignas(16) CudaPiece {
  void* average;
  const void* source;
  int16_t* lost;  // or null
  uint16_t size;  // elements, at least 1
  uint16_t head;  // elements before all arrays are aligned for vectors; `size` where they never are
  DType average_type;
  DType source_type;
};

/// A model's work. Grid of blocks(): block b takes piece b while there are pieces for blocks, and
/// after that each warp takes a piece of its own, so that 10,000 tiny tensors keep every thread
/// busy. The large pieces start first, and the small ones fill the end.
struct CudaPieces {
  std::vector<CudaPiece> all;  // those for a block, then those for a warp
  size_t for_blocks = 0;

  POLYAK_API int64_t blocks() const;
};

/// Cuts spans into pieces that cover each element once. Only the pointers' values matter.
/// @throws Error for an average that lerp() does not take.
POLYAK_API CudaPieces cut_for_cuda(const std::vector<Span>& spans);

/// Throws Error: what could not be done on which device, and CUDA's reason. Here, since nvcc would
/// take longer over fmt than over the kernel.
[[noreturn]] void fail_on_cuda(const char* what, int device, const char* reason);

}  // namespace polyak::kernels
