// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "polyak/kernels/kernel_variants.h"

namespace polyak::kernels {
namespace {

void add(std::vector<KernelVariant>& found, const TraversalVariants& variants, Traversal best) {
  std::vector<KernelVariant> ordered{variants.in_order, variants.prefetching, variants.interleaved};
  std::swap(ordered.front(), ordered[static_cast<size_t>(best)]);
  found.insert(found.end(), ordered.begin(), ordered.end());
}

bool reference_is_forced() {
  const char* value = std::getenv("POLYAK_FORCE_REFERENCE");
  return value && *value && std::string(value) != "0";
}

}  // namespace

bool supports_average(DType average) {
  return average == DType::float32 || average == DType::float64;
}

int64_t bytes_of(DType type) {
  return type == DType::float64 ? 8 : type == DType::float32 ? 4 : 2;
}

int64_t traffic_of(const Span& span) {
  const int64_t element = 2 * bytes_of(span.average_type) + bytes_of(span.source_type) +
                          (span.residual ? 2 * int64_t(sizeof(*span.residual)) : 0);
  return span.size * element;
}

std::vector<Span> split_into_chunks(const std::vector<Span>& spans, int64_t size) {
  std::vector<Span> chunks;
  for (const Span& span : spans) {
    const int64_t element = bytes_of(span.source_type);
    const auto source = reinterpret_cast<uintptr_t>(span.source);
    for (int64_t begin = 0, end = 0; begin < span.size; begin = end) {
      end = std::min(begin + size, span.size);
      const int64_t into_page = static_cast<int64_t>((source + end * element) % kPage) / element;
      if (end < span.size && into_page < end - begin) end -= into_page;
      Span chunk = span;
      chunk.average = static_cast<char*>(span.average) + begin * bytes_of(span.average_type);
      chunk.source = static_cast<const char*>(span.source) + begin * element;
      if (span.residual) chunk.residual = span.residual + begin;
      chunk.size = end - begin;
      chunks.push_back(chunk);
    }
  }
  return chunks;
}

const std::vector<KernelVariant>& kernel_variants() {
  // Never destroyed: a thread may still average while the process ends.
  static const std::vector<KernelVariant>& kVariants = *new std::vector<KernelVariant>([] {
    std::vector<KernelVariant> found;
    Traversal best = Traversal::in_order;
#if defined(__x86_64__)
    // The builtins also check that the operating system saves the registers.
    __builtin_cpu_init();
    best = __builtin_cpu_is("intel") ? Traversal::prefetching : Traversal::interleaved;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      add(found, avx512_variants(), best);
    }
    // Every CPU with AVX2 has F16C, which not every compiler's builtin knows.
    if (__builtin_cpu_supports("avx2")) add(found, avx2_variants(), best);
#endif
    add(found, portable_variants(), best);
    found.push_back(reference_variant());
    return found;
  }());
  return kVariants;
}

const KernelVariant& chosen_variant() {
  static const KernelVariant& chosen =
      reference_is_forced() ? kernel_variants().back() : kernel_variants().front();
  return chosen;
}

void lerp(const Span* spans, size_t count, double weight) {
  chosen_variant().lerp(spans, count, weight);
}

void lerp_group(const Span* const* spans, const double* weights, size_t count) {
  chosen_variant().lerp_group(spans, weights, count);
}

bool all_finite(const Span* spans, size_t count) {
  return chosen_variant().all_finite(spans, count);
}

}  // namespace polyak::kernels
