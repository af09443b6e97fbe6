// SPDX-License-Identifier: Apache-2.0
// The loops over spans, compiled once for each instruction set. No include guard: each source that
// includes it gets its own functions. Do not call the standard library here: the linker could keep
// the copy of an inline function that was compiled for AVX-512.
#include <cstddef>
#include <cstdint>

#include "polyak/kernels/element.h"
#include "polyak/kernels/kernel_variants.h"
#include "polyak/kernels/lerp.h"

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace polyak::kernels {
namespace {

/// If not kBelowHalf, `weight` is 1 - weight, the weight of the old average.
template <bool kBelowHalf, class T>
T moved(T average, T value, T weight) {
  return kBelowHalf ? move_towards(average, value, weight) : move_back_from(value, average, weight);
}

template <bool kBelowHalf, class Average, class Source>
void lerp_run(Average* __restrict average, const Source* __restrict source, int64_t size,
              Average weight) {
  for (int64_t i = 0; i < size; ++i) {
    average[i] = moved<kBelowHalf>(average[i], static_cast<Average>(widen(source[i])), weight);
  }
}

#ifdef __F16C__
// Compilers do not select the instruction that widens float16, and shuffle bfloat16 instead of
// shifting it.
#ifdef __AVX512F__
using Floats = __m512;
Floats load(const float* from) {
  return _mm512_loadu_ps(from);
}
Floats load(const Half* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
Floats load(const BFloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
void store(float* to, Floats value) {
  _mm512_storeu_ps(to, value);
}
Floats repeat(float value) {
  return _mm512_set1_ps(value);
}
#else
using Floats = __m256;
Floats load(const float* from) {
  return _mm256_loadu_ps(from);
}
Floats load(const Half* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
Floats load(const BFloat16* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
void store(float* to, Floats value) {
  _mm256_storeu_ps(to, value);
}
Floats repeat(float value) {
  return _mm256_set1_ps(value);
}
#endif
constexpr int64_t kFloats = sizeof(Floats) / sizeof(float);

template <bool kBelowHalf, class Source>
void lerp_run_widening(float* __restrict average, const Source* __restrict source, int64_t size,
                       float weight) {
  const Floats w = repeat(weight);
  int64_t i = 0;
  for (; i + kFloats <= size; i += kFloats) {
    const Floats value = load(source + i);
    store(average + i, moved<kBelowHalf>(load(average + i), value, w));
  }
  lerp_run<kBelowHalf, float, Source>(average + i, source + i, size - i, weight);
}
template <bool kBelowHalf>
void lerp_run(float* average, const Half* source, int64_t size, float weight) {
  lerp_run_widening<kBelowHalf>(average, source, size, weight);
}
template <bool kBelowHalf>
void lerp_run(float* average, const BFloat16* source, int64_t size, float weight) {
  lerp_run_widening<kBelowHalf>(average, source, size, weight);
}
#endif

constexpr int64_t kStep = 64;    // elements that are read at once
constexpr int64_t kAhead = 256;  // prefetch distance in elements

template <class Element>
void prefetch_ahead(const Element* read) {
  const char* from = reinterpret_cast<const char*>(read + kAhead);
  for (size_t line = 0; line < kStep * sizeof(Element); line += 64) {
    __builtin_prefetch(from + line);
  }
}

template <bool kBelowHalf, class Average, class Source>
void lerp_prefetching(Average* average, const Source* source, int64_t size, Average weight) {
  int64_t i = 0;
  for (; i + kStep + kAhead <= size; i += kStep) {
    prefetch_ahead(average + i);
    prefetch_ahead(source + i);
    lerp_run<kBelowHalf>(average + i, source + i, kStep, weight);
  }
  lerp_run<kBelowHalf>(average + i, source + i, size - i, weight);
}

/// The second half starts at a page boundary of the source.
template <bool kBelowHalf, class Average, class Source>
void lerp_interleaved(Average* average, const Source* source, int64_t size, Average weight) {
  const auto middle = reinterpret_cast<uintptr_t>(source + size / 2);
  const int64_t half = size / 2 - static_cast<int64_t>(middle % kPage / sizeof(Source));
  const int64_t start = half % kStep;
  lerp_run<kBelowHalf>(average, source, start, weight);
  lerp_run<kBelowHalf>(average + half, source + half, start, weight);
  for (int64_t i = start; i < half; i += kStep) {
    lerp_run<kBelowHalf>(average + i, source + i, kStep, weight);
    lerp_run<kBelowHalf>(average + half + i, source + half + i, kStep, weight);
  }
  lerp_run<kBelowHalf>(average + 2 * half, source + 2 * half, size - 2 * half, weight);
}

constexpr int64_t kSmall = 4096;  // elements, at least two pages; smaller arrays are read in order

template <bool kBelowHalf, class Average, class Source>
void lerp_span(Average* average, const Source* source, int64_t size, Average weight,
               Traversal traversal) {
  if (size <= kSmall || traversal == Traversal::in_order) {
    lerp_run<kBelowHalf>(average, source, size, weight);
  } else if (traversal == Traversal::prefetching) {
    lerp_prefetching<kBelowHalf>(average, source, size, weight);
  } else {
    lerp_interleaved<kBelowHalf>(average, source, size, weight);
  }
}

template <class Average, class Source>
void lerp_span(Average* average, const Source* source, int64_t size, double weight,
               Traversal traversal) {
  if (weight < 0.5) {
    lerp_span<true>(average, source, size, static_cast<Average>(weight), traversal);
  } else {
    lerp_span<false>(average, source, size, static_cast<Average>(1.0 - weight), traversal);
  }
}

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
  for (; i + kFloats <= size; i += kFloats) store(room + i, load(source + i));
  for (; i < size; ++i) room[i] = widen(source[i]);
  return room;
}
#endif

// In blocks, with one element width in each loop: mixed widths make poor vector code.
template <bool kBelowHalf, class Source>
void lerp_compensated(float* __restrict average, int16_t* __restrict residual,
                      const Source* __restrict source, int64_t size, float weight) {
  int32_t wide[kBlock];
  float room[kBlock];
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = size - begin < kBlock ? size - begin : kBlock;
    float* __restrict const block = average + begin;
    for (int64_t i = 0; i < count; ++i) wide[i] = residual[begin + i];
    const float* __restrict const value = as_floats(source + begin, room, count);
    for (int64_t i = 0; i < count; ++i) {
      const Compensated before{block[i], wide[i]};
      const Compensated after = kBelowHalf ? move_towards(before, value[i], weight)
                                           : move_back_from(value[i], before, weight);
      block[i] = after.average;
      wide[i] = after.residual;
    }
    for (int64_t i = 0; i < count; ++i) residual[begin + i] = static_cast<int16_t>(wide[i]);
  }
}

template <class Source>
void lerp_from(const Span& span, double weight, Traversal traversal) {
  const auto* source = static_cast<const Source*>(span.source);
  auto* average = static_cast<float*>(span.average);
  if (span.average_type == DType::float64) {
    lerp_span(static_cast<double*>(span.average), source, span.size, weight, traversal);
  } else if (!span.residual) {
    lerp_span(average, source, span.size, weight, traversal);
  } else if (weight < 0.5) {
    lerp_compensated<true>(average, span.residual, source, span.size, static_cast<float>(weight));
  } else {
    lerp_compensated<false>(average, span.residual, source, span.size,
                            static_cast<float>(1.0 - weight));
  }
}

constexpr int64_t kSpansAhead = 4;  // prefetch distance in spans

/// Prefetches the start of a small span: they are scattered in memory, so that hardware prefetchers
/// miss them. Larger spans need no help.
void prefetch_start(const Span& span) {
  if (span.size > kSmall) return;
  const int64_t size = span.size < kAhead ? span.size : kAhead;
  const auto ask = [](const void* array, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) {
      __builtin_prefetch(static_cast<const char*>(array) + line);
    }
  };
  ask(span.average, size * (span.average_type == DType::float64 ? 8 : 4));
  ask(span.source, size * (span.source_type == DType::float64   ? 8
                           : span.source_type == DType::float32 ? 4
                                                                : 2));
}

void lerp_spans(const Span* spans, size_t count, double weight, Traversal traversal) {
  if (weight == 0) return;  // not 0 * infinity
  for (const Span *span = spans, *end = spans + count; span != end; ++span) {
    if (end - span > kSpansAhead) prefetch_start(span[kSpansAhead]);
    switch (span->source_type) {
      case DType::float64:
        lerp_from<double>(*span, weight, traversal);
        break;
      case DType::float32:
        lerp_from<float>(*span, weight, traversal);
        break;
      case DType::float16:
        lerp_from<Half>(*span, weight, traversal);
        break;
      case DType::bfloat16:
        lerp_from<BFloat16>(*span, weight, traversal);
        break;
    }
  }
}

// Several averages in one loop: several memory streams at once are faster than one after the other,
// even if the source is in the cache by then.
void lerp_two(float* __restrict a, float* __restrict b, const float* __restrict value, int64_t size,
              float wa, float wb) {
  for (int64_t i = 0; i < size; ++i) {
    a[i] = move_towards(a[i], value[i], wa);
    b[i] = move_towards(b[i], value[i], wb);
  }
}

void lerp_three(float* __restrict a, float* __restrict b, float* __restrict c,
                const float* __restrict value, int64_t size, float wa, float wb, float wc) {
  for (int64_t i = 0; i < size; ++i) {
    a[i] = move_towards(a[i], value[i], wa);
    b[i] = move_towards(b[i], value[i], wb);
    c[i] = move_towards(c[i], value[i], wc);
  }
}

/// Two or three float32 averages that are not compensated, with weights < 0.5.
template <class Source>
void lerp_joined(const Span* const* spans, const double* weights, size_t count) {
  const auto* source = static_cast<const Source*>(spans[0]->source);
  float* average[3] = {};
  float w[3] = {};
  for (size_t k = 0; k < count; ++k) {
    average[k] = static_cast<float*>(spans[k]->average);
    w[k] = static_cast<float>(weights[k]);
  }
  float room[kBlock];
  for (int64_t begin = 0; begin < spans[0]->size; begin += kBlock) {
    const int64_t left = spans[0]->size - begin;
    const int64_t size = left < kBlock ? left : kBlock;
    const float* value = as_floats(source + begin, room, size);
    if (count == 3) {
      lerp_three(average[0] + begin, average[1] + begin, average[2] + begin, value, size, w[0],
                 w[1], w[2]);
    } else {
      lerp_two(average[0] + begin, average[1] + begin, value, size, w[0], w[1]);
    }
  }
}

void lerp_joined(const Span* const* spans, const double* weights, size_t count,
                 Traversal traversal) {
  if (count == 1) return lerp_spans(spans[0], 1, weights[0], traversal);
  switch (spans[0]->source_type) {
    case DType::float64:
      return lerp_joined<double>(spans, weights, count);
    case DType::float32:
      return lerp_joined<float>(spans, weights, count);
    case DType::float16:
      return lerp_joined<Half>(spans, weights, count);
    case DType::bfloat16:
      return lerp_joined<BFloat16>(spans, weights, count);
  }
}

void lerp_group_spans(const Span* const* spans, const double* weights, size_t count,
                      Traversal traversal) {
  const Span* joined[3] = {};
  double joined_weights[3] = {};
  size_t waiting = 0;
  for (size_t k = 0; k < count; ++k) {
    const Span& span = *spans[k];
    if (span.average_type != DType::float32 || span.residual || weights[k] == 0 ||
        weights[k] >= 0.5) {
      lerp_spans(&span, 1, weights[k], traversal);
      continue;
    }
    joined[waiting] = &span;
    joined_weights[waiting] = weights[k];
    if (++waiting == 3) {
      lerp_joined(joined, joined_weights, waiting, traversal);
      waiting = 0;
    }
  }
  if (waiting > 0) lerp_joined(joined, joined_weights, waiting, traversal);
}

/// Whether all exponent bits of some element are set, as in infinity and NaN.
template <class Bits>
bool any_full(const void* source, int64_t size, Bits exponent) {
  using Aliased __attribute__((may_alias)) = Bits;
  const Aliased* bits = static_cast<const Aliased*>(source);
  constexpr int64_t kStride = 4096;  // stops early without checking often
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

template <Traversal kTraversal>
KernelVariant variant(const char* name) {
  return {name,
          [](const Span* spans, size_t count, double weight) {
            lerp_spans(spans, count, weight, kTraversal);
          },
          [](const Span* const* spans, const double* weights, size_t count) {
            lerp_group_spans(spans, weights, count, kTraversal);
          },
          all_finite_spans};
}

}  // namespace
}  // namespace polyak::kernels
