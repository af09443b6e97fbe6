// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/chunk_table.h"

#include <algorithm>

namespace polyak {
namespace {

// Elements: small enough that threads share a layer evenly and several averages find the source in
// the cache, large enough that the cost of a call is negligible.
constexpr int64_t kChunkElements = 32768;
// The cost of a chunk besides its bytes, in bytes: ten thousand small tensors are work too.
constexpr int64_t kChunkOverhead = 512;

}  // namespace

ChunkTable::ChunkTable(const std::vector<kernels::Span>& spans)
    : chunks_(kernels::split_into_chunks(spans, kChunkElements)) {
  starts_.reserve(chunks_.size());
  for (const kernels::Span& chunk : chunks_) {
    starts_.push_back(bytes_);
    bytes_ += kernels::traffic_of(chunk) + kChunkOverhead;
  }
}

size_t ChunkTable::chunk_at(int64_t byte) const {
  return static_cast<size_t>(std::lower_bound(starts_.begin(), starts_.end(), byte) -
                             starts_.begin());
}

}  // namespace polyak
