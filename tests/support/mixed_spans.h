// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <vector>

#include "polyak/kernels/lerp.h"

namespace polyak::kernels::testing {

struct TypePair {
  at::ScalarType torch;
  DType ours;
};
inline const std::vector<TypePair> kAllTypes{{at::kDouble, DType::float64},
                                             {at::kFloat, DType::float32},
                                             {at::kHalf, DType::float16},
                                             {at::kBFloat16, DType::bfloat16}};
inline const std::vector<double> kAllWeights{0.0, 1e-9, 1e-4, 0.3, 0.5, 0.9, 1.0};

/// Elements between an array's start and an address that is good for every access.
struct Offsets {
  int64_t average, source, residual;
};
/// Aligned; aligned from the fourth element on; never all aligned.
inline const std::vector<Offsets> kAllOffsets{{0, 0, 0}, {1, 1, 1}, {1, 2, 0}, {0, 0, 3}};

/// Averages and sources of many sizes, types and alignments, each in the middle of a larger array,
/// so that a write beside it shows.
class MixedSpans {
 public:
  /// One span for each size, pair of types, with and without compensation, and offset.
  static MixedSpans of_every_kind(const std::vector<int64_t>& sizes,
                                  const std::vector<Offsets>& offsets = kAllOffsets) {
    MixedSpans mixed;
    for (const TypePair& average : {kAllTypes[0], kAllTypes[1]}) {
      for (const TypePair& source : kAllTypes) {
        for (const bool compensated : {false, true}) {
          if (compensated && average.ours != DType::float32) continue;
          for (const Offsets& offset : offsets) {
            for (const int64_t size : sizes) mixed.add(size, average, source, compensated, offset);
          }
        }
      }
    }
    return mixed;
  }

  void add(int64_t size, const TypePair& average, const TypePair& source, bool compensated = false,
           const Offsets& offset = {0, 0, 0}) {
    constexpr int64_t kMargin = 8;
    const int64_t room = size + 2 * kMargin;
    items_.push_back({numbers(room, average.torch), numbers(room, source.torch),
                      compensated ? at::randint(-32768, 32768, {room}, at::kShort) : at::Tensor(),
                      size, average.ours, source.ours, offset});
  }

  MixedSpans to(at::Device device) const {
    MixedSpans copy = *this;
    for (Item& item : copy.items_) {
      for (at::Tensor* tensor : {&item.average, &item.source, &item.residual}) {
        if (tensor->defined()) *tensor = tensor->to(device, /*non_blocking=*/false, /*copy=*/true);
      }
    }
    return copy;
  }

  /// The same averages and sources as before, the averages in memory of their own.
  MixedSpans with_own_averages() const {
    MixedSpans copy = *this;
    for (Item& item : copy.items_) {
      item.average = item.average.clone();
      if (item.residual.defined()) item.residual = item.residual.clone();
    }
    return copy;
  }
  /// For the same sizes and types.
  void take_sources_of(const MixedSpans& other) {
    for (size_t i = 0; i < items_.size(); ++i) items_[i].source = other.items_[i].source;
  }

  std::vector<Span> spans() const {
    std::vector<Span> spans;
    for (const Item& item : items_) {
      spans.push_back(
          {at(item.average, item.offset.average), at(item.source, item.offset.source), item.size,
           item.average_type, item.source_type,
           static_cast<int16_t*>(item.residual.defined() ? at(item.residual, item.offset.residual)
                                                         : nullptr)});
    }
    return spans;
  }

  /// New sources, the same here and there.
  void renew_sources(MixedSpans& other) {
    for (size_t i = 0; i < items_.size(); ++i) {
      at::Tensor& source = items_[i].source;
      source.copy_(numbers(source.numel(), source.scalar_type()));
      other.items_[i].source.copy_(source);
    }
  }

  /// Where the bits of the averages, of their residuals, or beside them differ; -1: nowhere.
  int64_t first_difference(const MixedSpans& other) const {
    for (size_t i = 0; i < items_.size(); ++i) {
      if (!same_bits(items_[i].average, other.items_[i].average) ||
          !same_bits(items_[i].residual, other.items_[i].residual)) {
        return static_cast<int64_t>(i);
      }
    }
    return -1;
  }

 private:
  struct Item {
    at::Tensor average, source, residual;
    int64_t size;
    DType average_type, source_type;
    Offsets offset;
  };

  /// Some of them zeros, subnormal, or near the largest.
  static at::Tensor numbers(int64_t size, at::ScalarType type) {
    at::Tensor values = at::randn({size}, at::kDouble);
    const double special[] = {0.0, -0.0, 1e-40, -1e-45, 6e-8, 65504.0, 3e38, 1e-300};
    auto* value = values.data_ptr<double>();
    for (int64_t i = 5; i < size; i += 17) value[i] = special[i % 8];
    if (type == at::kHalf) values = values.clamp(-65504.0, 65504.0);
    return values.to(type);
  }

  static void* at(const at::Tensor& tensor, int64_t element) {
    return static_cast<char*>(tensor.data_ptr()) + element * tensor.element_size();
  }

  static bool same_bits(const at::Tensor& a, const at::Tensor& b) {
    if (!a.defined()) return !b.defined();
    const at::Tensor x = a.cpu(), y = b.cpu();
    return x.nbytes() == y.nbytes() && std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
  }

  std::vector<Item> items_;
};

}  // namespace polyak::kernels::testing
