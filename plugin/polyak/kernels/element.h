// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// The arithmetic of one element. Every kernel uses it: the loops of each instruction set, the
// reference, CUDA. All are compiled without contraction to fused multiply-adds, so all produce the
// same bits. Everything is static and always inlined: a copy that was compiled for AVX-512 must
// never be linked into a caller that was not.
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
  // A half shifted into place is a float whose exponent is 112 too small; for infinity and NaN it
  // is 224 too small. Subnormal halves are computed as multiples of 2^-24: as subnormal floats they
  // would depend on the processor's mode.
  const uint32_t normal = rest + (112U << 23);
  const uint32_t subnormal = bits_of(float(int32_t(value.bits & 0x3ffU)) * 0x1p-24F);
  const uint32_t finite = rest < 0x00800000U ? subnormal : normal;
  return float_of(sign | (rest >= 0x0f800000U ? normal + (112U << 23) : finite));
}

/// average + weight * (value - average), for weight < 0.5.
template <class T>
POLYAK_ELEMENT T move_towards(T average, T value, T weight) {
  return average + weight * (value - average);
}

/// The same for weight >= 0.5, with rest = 1 - weight: exact at weight 1.
template <class T>
POLYAK_ELEMENT T move_back_from(T value, T average, T rest) {
  return value - (value - average) * rest;
}

/// A float32 average with 16 more bits: `residual` is the rounding error of float32, in units of
/// 2^-16 of the average's last place; it fits in 16 bits. Averages below 2^-87 have no residual.
struct Compensated {
  float average;
  int32_t residual;
};

/// The unit of the residual of this average, or 0 if it has none. Sets `inverse` to its inverse.
POLYAK_ELEMENT float residual_unit(float average, float* inverse) {
  const uint32_t exponent = (bits_of(average) >> 23) & 0xffU;
  const bool none = exponent < 40 || exponent == 255;
  *inverse = float_of(none ? 0 : (293 - exponent) << 23);
  return float_of(none ? 0 : (exponent - 39) << 23);
}

/// high + low, rounded, and the rounding error (Knuth's two-sum: exact whichever is larger).
POLYAK_ELEMENT Compensated add_with_residual(float high, float low) {
  const float sum = high + low;
  const float taken = sum - high;
  const float error = (high - (sum - taken)) + (low - taken);
  float inverse;
  residual_unit(sum, &inverse);
  // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits. (It is 0 if
  // inverse is 0 and the error is finite; for NaN and infinity its value has no meaning.)
  const float rounded = error * inverse + 12582912.0F;
  int32_t residual = int32_t(bits_of(rounded)) - int32_t(0x4b400000);
  residual = residual > 32767 ? 32767 : residual < -32768 ? -32768 : residual;
  return {sum, residual};
}

POLYAK_ELEMENT Compensated move_towards(Compensated average, float value, float weight) {
  float inverse;
  const float residual = float(average.residual) * residual_unit(average.average, &inverse);
  const float step = residual + weight * ((value - average.average) - residual);
  return add_with_residual(average.average, step);
}

POLYAK_ELEMENT Compensated move_back_from(float value, Compensated average, float rest) {
  float inverse;
  const float residual = float(average.residual) * residual_unit(average.average, &inverse);
  return add_with_residual(value, -(((value - average.average) - residual) * rest));
}

}  // namespace polyak::kernels
