// SPDX-License-Identifier: Apache-2.0
#include "polyak/kernels/lerp.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "polyak/kernels/lerp_paths.h"

namespace polyak::kernels {
namespace {

void add(std::vector<Path>& found, const Paths& paths, Walk best) {
  std::vector<Path> walks{paths.in_order, paths.prefetching, paths.interleaved};
  std::swap(walks.front(), walks[static_cast<size_t>(best)]);
  found.insert(found.end(), walks.begin(), walks.end());
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
                          (span.lost ? 2 * int64_t(sizeof(*span.lost)) : 0);
  return span.size * element;
}

std::vector<Span> cut(const std::vector<Span>& spans, int64_t size) {
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
      if (span.lost) chunk.lost = span.lost + begin;
      chunk.size = end - begin;
      chunks.push_back(chunk);
    }
  }
  return chunks;
}

const std::vector<Path>& paths() {
  // Never destroyed: a thread may still average while the process ends.
  static const std::vector<Path>& kPaths = *new std::vector<Path>([] {
    std::vector<Path> found;
    Walk best = Walk::in_order;
#if defined(__x86_64__)
    // The compiler's builtin asks the operating system too, whether it keeps the registers.
    __builtin_cpu_init();
    best = __builtin_cpu_is("intel") ? Walk::prefetching : Walk::interleaved;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      add(found, avx512_paths(), best);
    }
    // Every CPU with AVX2 has F16C, for which not every compiler knows the question.
    if (__builtin_cpu_supports("avx2")) add(found, avx2_paths(), best);
#endif
    add(found, portable_paths(), best);
    found.push_back(reference_path());
    return found;
  }());
  return kPaths;
}

const Path& chosen_path() {
  static const Path& chosen = reference_is_forced() ? paths().back() : paths().front();
  return chosen;
}

void lerp(const Span* spans, size_t count, double weight) {
  chosen_path().lerp(spans, count, weight);
}

void lerp_group(const Span* const* spans, const double* weights, size_t count) {
  chosen_path().lerp_group(spans, weights, count);
}

bool all_finite(const Span* spans, size_t count) {
  return chosen_path().all_finite(spans, count);
}

}  // namespace polyak::kernels
