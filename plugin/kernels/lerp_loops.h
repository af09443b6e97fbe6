// The loops over spans, compiled once for each instruction set. No include guard: each source that
// includes it gets functions of its own. Nothing of the standard library may be called here, since
// an inline function of it, compiled for AVX-512, could be the copy that the linker keeps.
#include <cstdint>

#include "polyak/kernels/element.h"
#include "polyak/kernels/lerp.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace polyak::kernels {
namespace {

template <class Average, class Source>
void lerp_span(Average* __restrict average, const Source* __restrict source, int64_t size,
               double weight) {
  if (weight < 0.5) {
    const auto w = static_cast<Average>(weight);
    for (int64_t i = 0; i < size; ++i) {
      average[i] = move_towards(average[i], static_cast<Average>(widen(source[i])), w);
    }
  } else {
    const auto rest = static_cast<Average>(1.0 - weight);
    for (int64_t i = 0; i < size; ++i) {
      average[i] = move_back_from(static_cast<Average>(widen(source[i])), average[i], rest);
    }
  }
}

#ifdef __F16C__
// Compilers do not choose the instruction that widens float16 by themselves.
__m256 eight_floats(const Half* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}

void lerp_span(float* __restrict average, const Half* __restrict source, int64_t size,
               double weight) {
  const bool below_half = weight < 0.5;
  const __m256 w = _mm256_set1_ps(static_cast<float>(below_half ? weight : 1.0 - weight));
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    const __m256 value = eight_floats(source + i);
    const __m256 before = _mm256_loadu_ps(average + i);
    _mm256_storeu_ps(average + i, below_half ? move_towards(before, value, w)
                                             : move_back_from(value, before, w));
  }
  lerp_span<float, Half>(average + i, source + i, size - i, weight);
}
#endif

constexpr int64_t kBlock = 512;  // elements that stay in the first-level cache

const float* as_floats(const float* source, float* /*room*/, int64_t /*size*/) {
  return source;
}
template <class Source>
const float* as_floats(const Source* source, float* room, int64_t size) {
  for (int64_t i = 0; i < size; ++i) room[i] = static_cast<float>(widen(source[i]));
  return room;
}

#ifdef __F16C__
const float* as_floats(const Half* source, float* room, int64_t size) {
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) _mm256_storeu_ps(room + i, eight_floats(source + i));
  for (; i < size; ++i) room[i] = widen(source[i]);
  return room;
}
#endif

// In blocks, with loops of one width of element each: mixed widths make poor vector code.
template <bool kBelowHalf, class Source>
void lerp_compensated(float* __restrict average, int16_t* __restrict lost,
                      const Source* __restrict source, int64_t size, float weight) {
  int32_t wide[kBlock];
  float room[kBlock];
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = size - begin < kBlock ? size - begin : kBlock;
    float* __restrict const block = average + begin;
    for (int64_t i = 0; i < count; ++i) wide[i] = lost[begin + i];
    const float* __restrict const value = as_floats(source + begin, room, count);
    for (int64_t i = 0; i < count; ++i) {
      const Compensated before{block[i], wide[i]};
      const Compensated moved = kBelowHalf ? move_towards(before, value[i], weight)
                                           : move_back_from(value[i], before, weight);
      block[i] = moved.average;
      wide[i] = moved.lost;
    }
    for (int64_t i = 0; i < count; ++i) lost[begin + i] = static_cast<int16_t>(wide[i]);
  }
}

template <class Source>
void lerp_from(const Span& span, double weight) {
  const auto* source = static_cast<const Source*>(span.source);
  auto* average = static_cast<float*>(span.average);
  if (span.average_type == DType::float64) {
    lerp_span(static_cast<double*>(span.average), source, span.size, weight);
  } else if (!span.lost) {
    lerp_span(average, source, span.size, weight);
  } else if (weight < 0.5) {
    lerp_compensated<true>(average, span.lost, source, span.size, static_cast<float>(weight));
  } else {
    lerp_compensated<false>(average, span.lost, source, span.size,
                            static_cast<float>(1.0 - weight));
  }
}

void lerp_spans(const Span* spans, size_t count, double weight) {
  if (weight == 0) return;  // not 0 * infinity
  for (const Span* span = spans; span != spans + count; ++span) {
    switch (span->source_type) {
      case DType::float64:
        lerp_from<double>(*span, weight);
        break;
      case DType::float32:
        lerp_from<float>(*span, weight);
        break;
      case DType::float16:
        lerp_from<Half>(*span, weight);
        break;
      case DType::bfloat16:
        lerp_from<BFloat16>(*span, weight);
        break;
    }
  }
}

/// Whether a pattern of bits has its exponent full: the mark of infinity and NaN.
template <class Bits>
bool any_full(const void* source, int64_t size, Bits exponent) {
  using Aliased __attribute__((may_alias)) = Bits;
  const Aliased* bits = static_cast<const Aliased*>(source);
  constexpr int64_t kStride = 4096;  // gives up early, yet seldom asks
  for (int64_t begin = 0; begin < size; begin += kStride) {
    const int64_t end = size - begin < kStride ? size : begin + kStride;
    Bits found = 0;
    for (int64_t i = begin; i < end; ++i) {
      found |= static_cast<Bits>((bits[i] & exponent) == exponent ? 1 : 0);
    }
    if (found) return true;
  }
  return false;
}

bool all_finite_spans(const Span* spans, size_t count) {
  for (const Span* span = spans; span != spans + count; ++span) {
    bool bad = false;
    switch (span->source_type) {
      case DType::float64:
        bad = any_full<uint64_t>(span->source, span->size, 0x7ff0000000000000U);
        break;
      case DType::float32:
        bad = any_full<uint32_t>(span->source, span->size, 0x7f800000U);
        break;
      case DType::float16:
        bad = any_full<uint16_t>(span->source, span->size, 0x7c00U);
        break;
      case DType::bfloat16:
        bad = any_full<uint16_t>(span->source, span->size, 0x7f80U);
        break;
    }
    if (bad) return false;
  }
  return true;
}

}  // namespace
}  // namespace polyak::kernels
