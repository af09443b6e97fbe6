// SPDX-License-Identifier: Apache-2.0
// Compiled for the CPU that it runs on, which the library is not: see CMakeLists.txt. No LibTorch
// header may come in here, or inline functions of that would be compiled for this CPU only.
#include "bench/limit.h"

#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace polyak::bench {

void plain_loop(float* __restrict average, const float* __restrict source, int64_t size,
                float weight) {
  for (int64_t i = 0; i < size; ++i) average[i] += weight * (source[i] - average[i]);
}

void plain_loop_bfloat16(float* __restrict average, const uint16_t* __restrict source, int64_t size,
                         float weight) {
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t bits = uint32_t(source[i]) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    average[i] += weight * (value - average[i]);
  }
}

void plain_loop_float16(float* __restrict average, const uint16_t* __restrict source, int64_t size,
                        float weight) {
  int64_t i = 0;
#if defined(__F16C__)  // g++ 12 converts halves one at a time when left to itself
  const __m256 weights = _mm256_set1_ps(weight);
  for (; i + 8 <= size; i += 8) {
    const __m256 value =
        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i)));
    const __m256 before = _mm256_loadu_ps(average + i);
    _mm256_storeu_ps(average + i, before + weights * (value - before));
  }
#endif
  for (; i < size; ++i) {
    _Float16 value;
    std::memcpy(&value, &source[i], sizeof(value));
    average[i] += weight * (static_cast<float>(value) - average[i]);
  }
}

void next_source(float* __restrict source, const float* __restrict base, uint32_t* __restrict state,
                 int64_t size, float amplitude) {
  for (int64_t i = 0; i < size; ++i) {
    state[i] = state[i] * 1664525U + 1013904223U;
    source[i] = base[i] + amplitude * 0x1p-31F * static_cast<float>(static_cast<int32_t>(state[i]));
  }
}

void exact_average(double* __restrict average, const float* __restrict source, int64_t size,
                   double weight) {
  for (int64_t i = 0; i < size; ++i) average[i] += weight * (source[i] - average[i]);
}

}  // namespace polyak::bench
