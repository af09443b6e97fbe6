#include "polyak/kernels/lerp_cuda_table.h"

#include <algorithm>

#include "polyak/core/error.h"

namespace polyak::kernels {
namespace {

template <class T>
T* advanced(T* pointer, int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) + bytes);
}

/// Whether kCudaVector elements at this address can be read by 16 bytes, or at once if they are
/// less.
bool is_aligned(const void* pointer, int64_t element_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) %
             std::min<int64_t>(16, kCudaVector * element_bytes) ==
         0;
}

/// The first element from which vectors can be read of all arrays, or none below kCudaVector.
int64_t first_aligned(const Span& span) {
  int64_t first = 0;
  for (; first < kCudaVector; ++first) {
    const int64_t average = bytes_of(span.average_type), source = bytes_of(span.source_type);
    if (is_aligned(advanced(span.average, first * average), average) &&
        is_aligned(advanced(span.source, first * source), source) &&
        (!span.lost || is_aligned(span.lost + first, sizeof(*span.lost)))) {
      break;
    }
  }
  return first;
}

}  // namespace

int64_t CudaPieces::blocks() const {
  const auto for_warps = static_cast<int64_t>(all.size() - for_blocks);
  return static_cast<int64_t>(for_blocks) + (for_warps + kCudaWarps - 1) / kCudaWarps;
}

CudaPieces cut_for_cuda(const std::vector<Span>& spans) {
  CudaPieces pieces;
  std::vector<CudaPiece> for_warps;
  for (Span span : spans) {
    if (!supports_average(span.average_type)) {
      fail<Error>("the kernel takes averages in float32 and float64 only");
    }
    if (span.average_type != DType::float32) span.lost = nullptr;
    const int64_t first = first_aligned(span);
    const bool never = first == kCudaVector;
    // The head goes with the first piece, so that all others start aligned.
    int64_t size = std::min(span.size, kCudaBlockElements + (never ? 0 : first));
    for (int64_t begin = 0; begin < span.size; begin += size) {
      if (begin > 0) size = std::min(span.size - begin, kCudaBlockElements);
      CudaPiece piece{};
      piece.average = advanced(span.average, begin * bytes_of(span.average_type));
      piece.source = advanced(span.source, begin * bytes_of(span.source_type));
      piece.lost = span.lost ? span.lost + begin : nullptr;
      piece.size = static_cast<uint16_t>(size);
      piece.head = static_cast<uint16_t>(never ? size : begin > 0 ? 0 : std::min(first, size));
      piece.average_type = span.average_type;
      piece.source_type = span.source_type;
      (size > kCudaWarpElements ? pieces.all : for_warps).push_back(piece);
    }
  }
  pieces.for_blocks = pieces.all.size();
  pieces.all.insert(pieces.all.end(), for_warps.begin(), for_warps.end());
  return pieces;
}

void fail_on_cuda(const char* what, int device, const char* reason) {
  fail<Error>("CUDA device {}: cannot {}: {}", device, what, reason);
}

}  // namespace polyak::kernels
