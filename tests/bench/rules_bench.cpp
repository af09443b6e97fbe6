// SPDX-License-Identifier: Apache-2.0
// What other rules and a part of the model cost, next to a plain average of all of it.
#include <ATen/ATen.h>

#include <stdexcept>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"
#include "polyak/averaging/averages.h"

namespace polyak::bench {
namespace {

using Averages = std::vector<std::unique_ptr<AveragedModel>>;

/// Averages of three rules, which have copied the model.
Averages three_rules(const std::shared_ptr<Parameters>& model) {
  Averages averages;
  averages.push_back(make_average(model));
  averages.push_back(std::make_unique<WarmupEMA>(model, WarmupEMAOptions()));
  averages.push_back(
      std::make_unique<PowerFunctionEMA>(model, PowerFunctionEMAOptions().sigma_rel(0.1)));
  for (size_t i = 1; i < averages.size(); ++i) averages[i]->update_parameters(model);
  return averages;
}

void check_equal(const Averages& together, const Averages& apart) {
  for (size_t i = 0; i < together.size(); ++i) {
    const std::vector<at::Tensor> a = averages_of(*together[i]), b = averages_of(*apart[i]);
    for (size_t j = 0; j < a.size(); ++j) {
      if (!at::equal(a[j], b[j])) throw std::runtime_error("one pass gives other averages");
    }
  }
}

/// @param averaged bytes of the parameters that the average has
std::unique_ptr<AveragedModel> half_excluded(const std::shared_ptr<Parameters>& model,
                                             double* averaged) {
  auto average = std::make_unique<ExponentialMovingAverage>(
      model, ExponentialMovingAverageOptions().momentum(kWeight).exclude({"[13579]$"}));
  average->update_parameters(model);
  *averaged = 0;
  const std::vector<at::Tensor>& values = model->values();
  for (size_t i = 0; i < values.size(); i += 2)
    *averaged += static_cast<double>(values[i].nbytes());
  return average;
}

void rules(benchmark::State& state, const Case& of) {
  const auto model = make_model(of.name, of.dtype);
  const auto plain = make_average(model);
  double averaged = 0;
  const auto half = half_excluded(model, &averaged);
  const Averages one_pass = three_rules(model), three_passes = three_rules(model);
  std::vector<AveragedModel*> together;
  for (const auto& average : one_pass) together.push_back(average.get());
  SlidingWindowAverage sliding(model, SlidingWindowAverageOptions().window(4));
  for (int i = 0; i < 5; ++i) sliding.update_parameters(model);  // from here on, one is dropped
  const at::Tensor flat_average = at::rand({model->numel()}),
                   flat_source = at::rand({model->numel()});
  const Way limit = plain_loop_way(flat_average, flat_source);

  const auto update_together_ = [&] { update_together(together, model); };
  const auto update_apart = [&] {
    for (const auto& average : three_passes) average->update_parameters(model);
  };
  at::NoGradGuard no_grad;
  for (const at::Tensor& value : model->values()) value.add_(1);
  update_together_();
  update_apart();
  check_equal(one_pass, three_passes);

  Race race;
  race.add("ours", [&] { plain->update_parameters(model); });
  race.add("limit", limit.run);
  race.add("half", [&] { half->update_parameters(model); });
  race.add("three_rules", update_together_);
  race.add("three_rules_apart", update_apart);
  race.add("sliding", [&] { sliding.update_parameters(model); });
  race.run(state);
  // Per number: the mean is read and written in float64, the snapshot in float32, the average is
  // written, and the model read. The limit reads two numbers and writes one.
  constexpr double kSlidingBytes = 8 + 8 + 4 + 4 + 4 + 4;
  constexpr double kLimitBytes = 12;
  state.counters["half_bytes"] = averaged / (4.0 * static_cast<double>(model->numel()));
  state.counters["three_rules/three_rules_apart"] = race.ratio("three_rules", "three_rules_apart");
  state.counters["sliding_bytes/limit_bytes"] = kSlidingBytes / kLimitBytes;
}

}  // namespace

void add_rules_benchmarks() {
  add_cases("rules", {"resnet50", "vit_b_16"}, {at::kFloat}, rules, flags().rounds);
}

}  // namespace polyak::bench
