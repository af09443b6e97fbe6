// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/Parallel.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polyak/kernels/lerp.h"

namespace polyak {

/// Chunks of spans, split between threads by bytes, so that both one huge tensor and ten thousand
/// small ones keep every thread busy.
class ChunkTable {
 public:
  ChunkTable() = default;
  explicit ChunkTable(const std::vector<kernels::Span>& spans);

  size_t size() const { return chunks_.size(); }
  const kernels::Span* data() const { return chunks_.data(); }

  /// Calls work(first, last) on LibTorch's threads, for ranges that cover all chunks.
  template <class Work>
  void share_out(const Work& work) const {
    at::parallel_for(0, bytes_, kBytesAThread, [&](int64_t begin, int64_t end) {
      const size_t first = chunk_at(begin), last = chunk_at(end);
      if (first < last) work(first, last);
    });
  }

 private:
  // Below this, a second thread costs more than it saves.
  static constexpr int64_t kBytesAThread = 256 << 10;
  /// The first chunk that starts at or after this byte: it belongs to the thread whose range starts
  /// there.
  size_t chunk_at(int64_t byte) const;

  std::vector<kernels::Span> chunks_;
  std::vector<int64_t> starts_;  // the bytes before each chunk
  int64_t bytes_ = 0;
};

}  // namespace polyak
