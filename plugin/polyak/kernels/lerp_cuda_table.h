// SPDX-License-Identifier: Apache-2.0
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
constexpr int64_t kCudaWarpBytes = 4096;  // that a warp copies

/// Bytes that go along with an average.
struct CudaCopy {
  void* to;
  const void* from;
  int64_t bytes;
};

/// What one average does in an update.
struct CudaRow {
  std::vector<Span> averaged;
  std::vector<CudaCopy> copied_with_it;  // whenever it averages
  std::vector<CudaCopy> copied;          // at each update
};

/// A row's part in the next update.
struct alignas(16) CudaTurn {
  double weight = 0;      // of what goes into the average
  bool averages = false;  // and copies what goes with it
  bool copies = false;
};

/// What one block or one warp does for one row: a part of one span or copy. The kernel reads it by
/// 16 bytes.
struct alignas(16) CudaPiece {
  void* average;
  const void* source;
  int16_t* lost;  // or null
  uint16_t size;  // elements, of a copy bytes; 0: nothing to do
  uint16_t head;  // elements before all arrays are aligned for vectors; `size` where they never are
  DType average_type;
  DType source_type;
  bool at_each_update;  // of a copy: not just when the row averages
};

/// The work of several averages over one model: a matrix of pieces, in whose columns stands what
/// all of them read from one place. Grid of blocks(): block b takes column b while there are
/// columns for blocks, and after that each warp takes a column of its own, so that 10,000 tiny
/// tensors keep every thread busy. The large pieces start first, and the small ones fill the end.
/// Who takes a column goes down its rows, and finds the source in the cache from the second on.
struct CudaPieces {
  std::vector<CudaPiece> all;  // row after row
  size_t rows = 0;
  size_t columns = 0;
  size_t for_blocks = 0;   // columns before this one are for blocks, from here for warps
  size_t copies_from = 0;  // columns from here on copy

  POLYAK_API int64_t blocks() const;
};

/// Cuts rows into pieces that cover each element once. Only the pointers' values matter.
/// @throws Error for an average that lerp() does not take.
POLYAK_API CudaPieces cut_for_cuda(const std::vector<CudaRow>& rows);

/// Throws Error: what could not be done on which device, and CUDA's reason. Here, since nvcc would
/// take longer over fmt than over the kernel.
[[noreturn]] void fail_on_cuda(const char* what, int device, const char* reason);

}  // namespace polyak::kernels
