// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/averages.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <initializer_list>

#include "polyak/averaging/tensor_rule.h"
#include "polyak/kernels/kept_loops.h"

namespace polyak {
namespace {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

bool is_plain(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.is_cpu() && tensor.scalar_type() == type && tensor.is_contiguous() &&
         !tensor.is_neg();
}

bool are_plain(std::initializer_list<at::Tensor> tensors, at::ScalarType type) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [&](const at::Tensor& tensor) { return is_plain(tensor, type); });
}

/// average += weight * (source - average), published = average + correction * (source - first).
class Bema : public TensorRule {
 public:
  explicit Bema(BEMAOptions options) : options_(std::move(options)) {}

 protected:
  std::vector<std::string> kinds() const override { return {"running", "first"}; }

  Tensors start(const Slot& slot) const override {
    return {slot.average.detach().clone(), slot.average.detach().clone()};
  }

  void update(const Slot& slot, const Tensors& kept, const Clock& clock, double weight) override {
    const double correction = options_.correction(clock);
    const at::Tensor now = source_of(slot);
    const at::Tensor &running = kept[0], &first = kept[1], &published = slot.average;
    if (are_plain({running, first, published, now}, at::kFloat)) {
      run<float>(running, first, published, now, weight, correction);
    } else if (are_plain({running, first, published, now}, at::kDouble)) {
      run<double>(running, first, published, now, weight, correction);
    } else {
      const at::Tensor source = now.detach().to(running.device(), running.scalar_type());
      running.add_(source - running, weight);
      published.copy_(running).add_(source - first, correction);
    }
  }

 private:
  template <class T>
  static void run(const at::Tensor& running, const at::Tensor& first, const at::Tensor& published,
                  const at::Tensor& source, double weight, double correction) {
    T* const average = running.data_ptr<T>();
    T* const out = published.data_ptr<T>();
    const T* const start = first.data_ptr<T>();
    const T* const now = source.data_ptr<T>();
    at::parallel_for(0, source.numel(), kGrain, [=](int64_t i, int64_t end) {
      kernels::average_corrected(average + i, out + i, start + i, now + i, end - i, weight,
                                 correction);
    });
  }

  BEMAOptions options_;
};

/// The mean of the last snapshots, in float64: the new one comes and the oldest goes.
class SlidingWindow : public TensorRule {
 public:
  explicit SlidingWindow(SlidingWindowAverageOptions options) : options_(std::move(options)) {}

 protected:
  std::vector<std::string> kinds() const override {
    std::vector<std::string> kinds{"mean"};
    for (int64_t i = 0; i < options_.window(); ++i) kinds.push_back(fmt::format("snapshot_{}", i));
    return kinds;
  }

  /// Snapshots stand in a ring, whose places follow from the count of updates.
  bool can_continue(const Node& options) const override {
    const Node own = options_to_node(options_);
    const auto same = [&](const char* key) {
      const Node* const value = options.is_mapping() ? options.find(key) : nullptr;
      return value && value->is_int() && value->as_int() == own.at(key).as_int();
    };
    return same("window") && same("snapshot_every") && same("interval");
  }

  /// As if all snapshots so far had been this value: a layer may be added later.
  Tensors start(const Slot& slot) const override {
    const at::Tensor value = slot.average.detach();
    const at::ScalarType wide = value.is_complex() ? at::kComplexDouble : at::kDouble;
    Tensors kept{value.to(wide, /*non_blocking=*/false, /*copy=*/true)};
    for (int64_t i = 0; i < options_.window(); ++i) {
      kept.push_back(value.to(slot.source.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
    }
    return kept;
  }

  void update(const Slot& slot, const Tensors& kept, const Clock& clock,
              double /*weight*/) override {
    if (!options_.takes_snapshot(clock)) return;
    const int64_t before = options_.snapshots(clock);
    const at::Tensor now = source_of(slot);
    const at::Tensor& mean = kept[0];
    const at::Tensor& oldest = kept[static_cast<size_t>(1 + before % options_.window())];
    const bool full = before >= options_.window();
    const double share = 1.0 / static_cast<double>(std::min(before + 1, options_.window()));
    if (is_plain(mean, at::kDouble) && are_plain({oldest, now, slot.average}, at::kFloat)) {
      run<float>(mean, oldest, slot.average, now, share, full);
    } else if (are_plain({mean, oldest, now, slot.average}, at::kDouble)) {
      run<double>(mean, oldest, slot.average, now, share, full);
    } else {
      const at::Tensor source = now.detach().to(mean.device());
      const at::Tensor leaves = full ? oldest.to(mean.scalar_type()) : mean;
      mean.add_(source.to(mean.scalar_type()) - leaves, share);
      oldest.copy_(source);
      slot.average.copy_(mean);
    }
  }

 private:
  template <class T>
  static void run(const at::Tensor& mean, const at::Tensor& oldest, const at::Tensor& average,
                  const at::Tensor& source, double share, bool full) {
    double* const wide = mean.data_ptr<double>();
    T* const old = oldest.data_ptr<T>();
    T* const out = average.data_ptr<T>();
    const T* const now = source.data_ptr<T>();
    at::parallel_for(0, source.numel(), kGrain, [=](int64_t i, int64_t end) {
      full ? kernels::slide(wide + i, old + i, out + i, now + i, end - i, share)
           : kernels::grow(wide + i, old + i, out + i, now + i, end - i, share);
    });
  }

  SlidingWindowAverageOptions options_;
};

}  // namespace

BEMA::BEMA(const ModelRef& model, const BEMAOptions& options, ModuleFactory factory)
    : Average(model, resolved(options), std::move(factory),
              std::make_shared<Bema>(resolved(options))) {}

SlidingWindowAverage::SlidingWindowAverage(const ModelRef& model,
                                           const SlidingWindowAverageOptions& options,
                                           ModuleFactory factory)
    : Average(model, resolved(options), std::move(factory),
              std::make_shared<SlidingWindow>(resolved(options))) {}

}  // namespace polyak
