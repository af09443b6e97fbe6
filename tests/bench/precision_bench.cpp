// SPDX-License-Identifier: Apache-2.0
// What the option `precision` gives, and what it takes.
#include <ATen/ATen.h>

#include <cmath>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/limit.h"
#include "bench/race.h"
#include "polyak/averaging/averages.h"

namespace polyak::bench {
namespace {

constexpr const char* kPrecisions[] = {"default", "compensated", "float64"};

void time_of_precision(benchmark::State& state, const Case& of) {
  const auto model = make_model(of.name, of.dtype);
  std::vector<std::unique_ptr<AveragedModel>> emas;
  Race race;
  for (const char* precision : kPrecisions) {
    emas.push_back(make_average(model, precision));
    const auto run = [&model, ema = emas.back().get()] { ema->update_parameters(model); };
    check({precision, run, averages_of(*emas.back()), model->values()});
    race.add(precision, run);
  }
  race.run(state);
}

/// Many updates of a few values, against the same recurrence in float64: the largest error over the
/// largest value.
void error_of_precision(benchmark::State& state, const Case& /*of*/) {
  constexpr int64_t kSize = 4096;
  constexpr double kSmallWeight = 1e-4;
  const int64_t updates = flags().tiny ? 1000 : 1'000'000;
  const auto model = std::make_shared<Parameters>(Shapes{{kSize}}, at::kFloat);
  auto* source = model->values().front().data_ptr<float>();
  const std::vector<float> base(source, source + kSize);
  std::vector<double> exact(base.begin(), base.end());
  std::vector<uint32_t> generators(kSize);
  for (uint32_t i = 0; i < kSize; ++i) generators[i] = i * 2654435761U;

  std::vector<std::unique_ptr<AveragedModel>> owned;
  std::vector<AveragedModel*> emas;
  for (const char* precision : kPrecisions) {
    owned.push_back(std::make_unique<ExponentialMovingAverage>(
        model, ExponentialMovingAverageOptions()
                   .momentum(kSmallWeight)
                   .precision(parse_precision(precision))));
    emas.push_back(owned.back().get());
  }
  update_together(emas, model);
  for (auto _ : state) {
    for (int64_t i = 0; i < updates; ++i) {
      next_source(source, base.data(), generators.data(), kSize, 1.0F);
      update_together(emas, model);
      exact_average(exact.data(), source, kSize, kSmallWeight);
    }
    state.SetIterationTime(1);  // the time says nothing here
  }
  for (size_t i = 0; i < emas.size(); ++i) {
    const at::Tensor average = averages_of(*emas[i]).front().to(at::kDouble);
    double error = 0, largest = 0;
    for (int64_t j = 0; j < kSize; ++j) {
      error = std::max(error, std::abs(average.data_ptr<double>()[j] - exact[size_t(j)]));
      largest = std::max(largest, std::abs(exact[size_t(j)]));
    }
    state.counters[std::string(kPrecisions[i]) + "_error"] = error / largest;
  }
  state.counters["updates"] = double(updates);
}

}  // namespace

void add_precision_benchmarks() {
  add_cases("precision_time", {"resnet50"}, {at::kFloat, at::kBFloat16}, time_of_precision,
            flags().rounds);
  add_cases("precision_error", {"4096"}, {at::kFloat}, error_of_precision, 1, {1});
}

}  // namespace polyak::bench
