// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace polyak::kernels {

enum class DType : uint8_t { float64, float32, float16, bfloat16 };

/// Two arrays of `size` elements: an average (float32 or float64) and what goes into it.
struct Span {
  void* average;
  const void* source;
  int64_t size;
  DType average_type;
  DType source_type;
  /// For a float32 average that loses nothing to rounding: what float32 cannot hold of each
  /// element, in units of 2^-16 of its last place. Null: rounding is final.
  int16_t* lost = nullptr;
};

/// Bytes. CPUs foresee what will be read within such a page, so one should be read at one time.
constexpr int64_t kPage = 4096;

/// One way to run lerp(), lerp_group() and all_finite() on a CPU.
struct Path {
  /// "avx512", "avx2", "portable" or "reference", and how large arrays are walked through: "avx2,
  /// interleaved".
  const char* name;
  void (*lerp)(const Span* spans, size_t count, double weight);
  void (*lerp_group)(const Span* const* spans, const double* weights, size_t count);
  bool (*all_finite)(const Span* spans, size_t count);
};

}  // namespace polyak::kernels
