#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polyak/core/export.h"

namespace polyak::kernels {

enum class DType : uint8_t { float64, float32, float16, bfloat16 };

/// Two arrays of `size` elements: an average (float32 or float64) and what goes into it.
struct Span {
  void* average;
  const void* source;
  int64_t size;
  DType average_type;
  DType source_type;
};

/// Whether lerp() takes this pair of types.
POLYAK_API bool supports(DType average, DType source);

/// Cuts spans into chunks of at most `size` elements, so that threads can share them evenly.
POLYAK_API std::vector<Span> cut(const std::vector<Span>& spans, int64_t size);

/// average += weight * (source - average) for each span, in the average's type; for weight >= 0.5
/// in the form source - (source - average) * (1 - weight), so that weight 1 copies exactly. One
/// pass, no memory of its own. Spans must not overlap. Safe from several threads on different
/// spans.
POLYAK_API void lerp(const Span* spans, size_t count, double weight);

}  // namespace polyak::kernels
