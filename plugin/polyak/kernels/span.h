// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace polyak::kernels {

enum class DType : uint8_t { float64, float32, float16, bfloat16 };

/// Two arrays of `size` elements: an average (float32 or float64) and its source.
struct Span {
  void* average;
  const void* source;
  int64_t size;
  DType average_type;
  DType source_type;
  /// The residual of a compensated float32 average: what float32 cannot hold of each element, in
  /// units of 2^-16 of its last place. Null: not compensated.
  int16_t* residual = nullptr;
};

/// Bytes. Hardware prefetchers work within a page, so a page should be read in one go.
constexpr int64_t kPage = 4096;

/// One implementation of lerp(), lerp_group() and all_finite() for CPUs.
struct KernelVariant {
  /// "avx512", "avx2", "portable" or "reference", and the traversal if it is not in order: "avx2,
  /// interleaved".
  const char* name;
  void (*lerp)(const Span* spans, size_t count, double weight);
  void (*lerp_group)(const Span* const* spans, const double* weights, size_t count);
  bool (*all_finite)(const Span* spans, size_t count);
};

}  // namespace polyak::kernels
