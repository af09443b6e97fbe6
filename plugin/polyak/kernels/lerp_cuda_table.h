// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/kernels/lerp.h"

// How the CUDA kernel distributes the work on a model, decided on the host. Nothing here needs
// CUDA, so machines without a GPU test it.
namespace polyak::kernels {

constexpr int64_t kCudaThreads = 256;  // per block
constexpr int64_t kCudaWarps = kCudaThreads / 32;
constexpr int64_t kCudaVector = 4;  // elements that a thread reads at once from aligned arrays
/// A block reads this many float32 elements with all loads in flight at once.
constexpr int64_t kCudaBlockElements = kCudaThreads * kCudaVector * 4;
/// Up to this many elements are left to one warp: most threads of a block would be idle.
constexpr int64_t kCudaWarpElements = kCudaBlockElements / 4;
constexpr int64_t kCudaWarpBytes = 4096;  // that a warp copies

/// Bytes that are copied along with an average.
struct CudaCopy {
  void* to;
  const void* from;
  int64_t bytes;
};

/// The work of one average in an update.
struct CudaRow {
  std::vector<Span> averaged;
  std::vector<CudaCopy> copied_with_it;  // when it averages
  std::vector<CudaCopy> copied;          // at each update
};

/// A row's part in the next update.
struct alignas(16) CudaTurn {
  double weight = 0;      // of the source
  bool averages = false;  // and copies `copied_with_it`
  bool copies = false;
};

/// The work of one block or one warp for one row: a part of one span or copy. The kernel reads it
/// in units of 16 bytes.
struct alignas(16) CudaPiece {
  void* average;
  const void* source;
  int16_t* residual;  // or null
  uint16_t size;      // elements, or bytes of a copy; 0: nothing to do
  uint16_t head;  // elements before all arrays are aligned for vectors; `size` if they never are
  DType average_type;
  DType source_type;
  bool at_each_update;  // copies: not only when the row averages
};

/// The work of several averages of one model: a matrix of pieces. A column holds the pieces of all
/// averages that read the same source. In a grid of blocks() blocks, block b processes column b of
/// those for blocks; after these, each warp processes one column, so that 10,000 tiny tensors keep
/// every thread busy. Large pieces start first, and small ones fill the end. A block or warp goes
/// down the rows of its column and finds the source in the cache from the second row on.
struct CudaPieces {
  std::vector<CudaPiece> all;  // row after row
  size_t rows = 0;
  size_t columns = 0;
  size_t for_blocks = 0;   // the first columns are for blocks, the others for warps
  size_t copies_from = 0;  // columns from here on copy

  int64_t blocks() const;
};

/// Splits rows into pieces that cover each element once. Does not dereference the pointers.
/// @throws Error for an average that lerp() does not support.
POLYAK_API CudaPieces split_for_cuda(const std::vector<CudaRow>& rows);

/// Throws an Error that names the operation, the device and CUDA's reason. Not in the .cu file,
/// since nvcc takes longer for fmt than for the kernel.
[[noreturn]] void fail_on_cuda(const char* what, int device, const char* reason);

}  // namespace polyak::kernels
