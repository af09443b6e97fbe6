#include "polyak/kernels/lerp.h"

#include <algorithm>
#include <cstring>

namespace polyak::kernels {
namespace {

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Half {
  uint16_t bits;
  operator float() const {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
    const uint32_t rest = bits & 0x7fffu;
    // Shifted into place a half is a float whose exponent is 112 too small; infinity and NaN are
    // 112 more.
    if (rest >= 0x7c00u) return from_bits(sign | (rest << 13) | 0x7f800000u);
    return from_bits(sign | (rest << 13)) * 0x1p112f;
  }
};

struct BFloat16 {
  uint16_t bits;
  operator float() const { return from_bits(uint32_t(bits) << 16); }
};

template <class Average, class Source>
void lerp_span(const Span& span, double weight) {
  auto* average = static_cast<Average*>(span.average);
  const auto* source = static_cast<const Source*>(span.source);
  if (weight < 0.5) {
    const auto w = static_cast<Average>(weight);
    for (int64_t i = 0; i < span.size; ++i) {
      average[i] += w * (static_cast<Average>(source[i]) - average[i]);
    }
  } else {
    const auto rest = static_cast<Average>(1.0 - weight);
    for (int64_t i = 0; i < span.size; ++i) {
      const auto value = static_cast<Average>(source[i]);
      average[i] = value - (value - average[i]) * rest;
    }
  }
}

template <class Average>
void lerp_from(const Span& span, double weight) {
  switch (span.source_type) {
    case DType::float64:
      return lerp_span<Average, double>(span, weight);
    case DType::float32:
      return lerp_span<Average, float>(span, weight);
    case DType::float16:
      return lerp_span<Average, Half>(span, weight);
    case DType::bfloat16:
      return lerp_span<Average, BFloat16>(span, weight);
  }
}

int64_t bytes_of(DType type) {
  return type == DType::float64 ? 8 : type == DType::float32 ? 4 : 2;
}

}  // namespace

bool supports(DType average, DType /*source*/) {
  return average == DType::float32 || average == DType::float64;
}

std::vector<Span> cut(const std::vector<Span>& spans, int64_t size) {
  std::vector<Span> chunks;
  for (const Span& span : spans) {
    for (int64_t begin = 0; begin < span.size; begin += size) {
      Span chunk = span;
      chunk.average = static_cast<char*>(span.average) + begin * bytes_of(span.average_type);
      chunk.source = static_cast<const char*>(span.source) + begin * bytes_of(span.source_type);
      chunk.size = std::min(size, span.size - begin);
      chunks.push_back(chunk);
    }
  }
  return chunks;
}

void lerp(const Span* spans, size_t count, double weight) {
  for (const Span* span = spans; span != spans + count; ++span) {
    span->average_type == DType::float64 ? lerp_from<double>(*span, weight)
                                         : lerp_from<float>(*span, weight);
  }
}

}  // namespace polyak::kernels
