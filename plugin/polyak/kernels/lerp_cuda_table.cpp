// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp_cuda_table.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "polyak/core/error.h"

namespace polyak::kernels {
namespace {

template <class T>
T* advanced(T* pointer, int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) + bytes);
}

/// Whether kCudaVector elements at this address can be read in units of 16 bytes, or in one unit if
/// they are smaller.
bool is_aligned(const void* pointer, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) %
             std::min<int64_t>(16, kCudaVector * element_bytes) ==
         0;
}

/// The first element at which all arrays are aligned for vectors; kCudaVector if there is none.
int64_t first_aligned(const Span& span) {
  int64_t first = 0;
  for (; first < kCudaVector; ++first) {
    const int64_t average = bytes_of(span.average_type), source = bytes_of(span.source_type);
    if (is_aligned(advanced(span.average, first * average), average) &&
        is_aligned(advanced(span.source, first * source), source) &&
        (!span.residual || is_aligned(span.residual + first, sizeof(*span.residual)))) {
      break;
    }
  }
  return first;
}

enum class Kind : uint8_t { average, copy_with_average, copy_at_each_update };

/// A span of a row, or a copy as a span of bytes.
struct Work {
  Kind kind;
  Span span;
};

/// The work of each row on one source; null for rows that do not use it.
using Shared = std::vector<const Work*>;

/// Groups the work of all rows by source. A row that uses a source twice gets a second group.
std::vector<Shared> share_sources(const std::vector<std::vector<Work>>& rows) {
  std::vector<Shared> all;
  std::map<std::tuple<Kind, const void*, int64_t, DType>, std::vector<size_t>> places_of;
  for (size_t row = 0; row < rows.size(); ++row) {
    for (const Work& work : rows[row]) {
      const Span& span = work.span;
      std::vector<size_t>& places =
          places_of[{work.kind, span.source, span.size, span.source_type}];
      auto place =
          std::find_if(places.begin(), places.end(), [&](size_t i) { return !all[i][row]; });
      if (place == places.end()) {
        place = places.insert(places.end(), all.size());
        all.emplace_back(rows.size());
      }
      all[*place][row] = &work;
    }
  }
  return all;
}

/// The work of one row in an update, without empty spans and copies.
std::vector<Work> works_of(const CudaRow& row) {
  std::vector<Work> works;
  for (Span span : row.averaged) {
    if (!supports_average(span.average_type)) {
      fail<Error>("the CUDA kernel supports averages in float32 and float64 only");
    }
    if (span.average_type != DType::float32) span.residual = nullptr;
    if (span.size > 0) works.push_back({Kind::average, span});
  }
  const auto add_copies = [&](Kind kind, const std::vector<CudaCopy>& copies) {
    for (const CudaCopy& copy : copies) {
      if (copy.bytes > 0) works.push_back({kind, {copy.to, copy.from, copy.bytes, {}, {}}});
    }
  };
  add_copies(Kind::copy_with_average, row.copied_with_it);
  add_copies(Kind::copy_at_each_update, row.copied);
  return works;
}

/// `size` elements of a span, or bytes of a copy, from `begin` on.
CudaPiece piece_of(const Work& work, int64_t begin, int64_t size) {
  Span span = work.span;
  const bool copies = work.kind != Kind::average;
  span.average = advanced(span.average, begin * (copies ? 1 : bytes_of(span.average_type)));
  span.source = advanced(span.source, begin * (copies ? 1 : bytes_of(span.source_type)));
  if (span.residual) span.residual += begin;
  const int64_t head = copies ? 0 : first_aligned(span);
  CudaPiece piece{};
  piece.average = span.average;
  piece.source = span.source;
  piece.residual = span.residual;
  piece.size = static_cast<uint16_t>(size);
  piece.head = static_cast<uint16_t>(head == kCudaVector ? size : std::min(head, size));
  piece.average_type = span.average_type;
  piece.source_type = span.source_type;
  piece.at_each_update = work.kind == Kind::copy_at_each_update;
  return piece;
}

}  // namespace

int64_t CudaPieces::blocks() const {
  const auto for_warps = static_cast<int64_t>(columns - for_blocks);
  return static_cast<int64_t>(for_blocks) + (for_warps + kCudaWarps - 1) / kCudaWarps;
}

CudaPieces split_for_cuda(const std::vector<CudaRow>& rows) {
  std::vector<std::vector<Work>> works;
  works.reserve(rows.size());
  for (const CudaRow& row : rows) works.push_back(works_of(row));

  using Column = std::vector<CudaPiece>;
  std::vector<Column> columns, for_warps, copies;
  for (const Shared& shared : share_sources(works)) {
    const Work& first =
        **std::find_if(shared.begin(), shared.end(), [](const Work* work) { return work; });
    const bool averages = first.kind == Kind::average;
    const int64_t most = averages ? kCudaBlockElements : kCudaWarpBytes;
    // The first piece includes the head, so that all others start aligned.
    const int64_t head = averages ? first_aligned(first.span) % kCudaVector : 0;
    int64_t size = std::min(first.span.size, most + head);
    for (int64_t begin = 0; begin < first.span.size; begin += size) {
      if (begin > 0) size = std::min(first.span.size - begin, most);
      Column column;
      for (const Work* work : shared) {
        column.push_back(work ? piece_of(*work, begin, size) : CudaPiece{});
      }
      (!averages                  ? copies
       : size > kCudaWarpElements ? columns
                                  : for_warps)
          .push_back(std::move(column));
    }
  }

  CudaPieces pieces;
  pieces.rows = rows.size();
  pieces.for_blocks = columns.size();
  columns.insert(columns.end(), for_warps.begin(), for_warps.end());
  pieces.copies_from = columns.size();
  columns.insert(columns.end(), copies.begin(), copies.end());
  pieces.columns = columns.size();
  pieces.all.reserve(pieces.rows * pieces.columns);
  for (size_t row = 0; row < pieces.rows; ++row) {
    for (const Column& column : columns) pieces.all.push_back(column[row]);
  }
  return pieces;
}

void fail_on_cuda(const char* what, int device, const char* reason) {
  fail<Error>("CUDA device {}: cannot {}: {}", device, what, reason);
}

}  // namespace polyak::kernels
