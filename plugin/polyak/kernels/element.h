// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// The arithmetic of one element. Every path shares it: the loops of each instruction set, the
// reference, CUDA. All are compiled without contraction to fused multiply-adds, so all give the
// same bits. Everything is static and always inlined: a copy that was compiled for AVX-512 must
// never serve a caller that was not.
#ifdef __CUDACC__
#define POLYAK_ELEMENT static __host__ __device__ __forceinline__
#else
#define POLYAK_ELEMENT static inline __attribute__((always_inline))
#endif

namespace polyak::kernels {

POLYAK_ELEMENT float float_of(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

POLYAK_ELEMENT uint32_t bits_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

POLYAK_ELEMENT double widen(double value) {
  return value;
}
POLYAK_ELEMENT float widen(float value) {
  return value;
}
POLYAK_ELEMENT float widen(BFloat16 value) {
  return float_of(uint32_t(value.bits) << 16);
}
POLYAK_ELEMENT float widen(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000U) << 16;
  const uint32_t rest = uint32_t(value.bits & 0x7fffU) << 13;
  // Shifted into place a half is a float whose exponent is 112 too small; infinity and NaN are 112
  // more. Subnormal halves are counted in 2^-24: as subnormal floats they would depend on the
  // processor's mode.
  const uint32_t normal = rest + (112U << 23);
  const uint32_t subnormal = bits_of(float(int32_t(value.bits & 0x3ffU)) * 0x1p-24F);
  const uint32_t finite = rest < 0x00800000U ? subnormal : normal;
  return float_of(sign | (rest >= 0x0f800000U ? normal + (112U << 23) : finite));
}

/// average + weight * (value - average), for a weight below a half.
template <class T>
POLYAK_ELEMENT T move_towards(T average, T value, T weight) {
  return average + weight * (value - average);
}

/// The same for a weight of a half and more, given as rest = 1 - weight: exact at weight 1.
template <class T>
POLYAK_ELEMENT T move_back_from(T value, T average, T rest) {
  return value - (value - average) * rest;
}

/// A float32 average with 16 more bits: `lost` is what rounding to float32 took away, in units of
/// 2^-16 of the average's last place; it fits 16 bits. Below 2^-87 nothing is kept.
struct Compensated {
  float average;
  int32_t lost;
};

/// The unit of `lost` beside this average, or 0 where there is none. `inverse` is its inverse.
POLYAK_ELEMENT float unit_of_lost(float average, float* inverse) {
  const uint32_t exponent = (bits_of(average) >> 23) & 0xffU;
  const bool none = exponent < 40 || exponent == 255;
  *inverse = float_of(none ? 0 : (293 - exponent) << 23);
  return float_of(none ? 0 : (exponent - 39) << 23);
}

/// high + low, rounded, and the rounding error (Knuth's two-sum: exact for any order of sizes).
POLYAK_ELEMENT Compensated add_keeping_the_lost(float high, float low) {
  const float sum = high + low;
  const float taken = sum - high;
  const float error = (high - (sum - taken)) + (low - taken);
  float inverse;
  unit_of_lost(sum, &inverse);
  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits. (Where
  // inverse is 0 and the error finite it is 0; beside a NaN or infinity its value means nothing.)
  const float rounded = error * inverse + 12582912.0F;
  int32_t lost = int32_t(bits_of(rounded)) - int32_t(0x4b400000);
  lost = lost > 32767 ? 32767 : lost < -32768 ? -32768 : lost;
  return {sum, lost};
}

POLYAK_ELEMENT Compensated move_towards(Compensated average, float value, float weight) {
  float inverse;
  const float lost = float(average.lost) * unit_of_lost(average.average, &inverse);
  const float step = lost + weight * ((value - average.average) - lost);
  return add_keeping_the_lost(average.average, step);
}

POLYAK_ELEMENT Compensated move_back_from(float value, Compensated average, float rest) {
  float inverse;
  const float lost = float(average.lost) * unit_of_lost(average.average, &inverse);
  return add_keeping_the_lost(value, -(((value - average.average) - lost) * rest));
}

}  // namespace polyak::kernels
