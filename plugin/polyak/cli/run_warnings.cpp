// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/run_warnings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "polyak/rules/sliding_window_average.h"
#include "polyak/rules/stochastic_weight_average.h"

namespace polyak::cli {
namespace {

// A horizon of a third of the run leaves e^-3 = 5 % of the first weights.
constexpr double kHorizons = 3;
constexpr int64_t kMostCalls = 10'000'000;  // to look at; beyond them no rule is still at its start

const Node* set_key(const Node& options, const char* key) {
  const Node* node = options.find(key);
  return node && !node->is_null() ? node : nullptr;
}

/// Up to two digits, so that it still fits.
double rounded_up(double value) {
  const double unit = std::pow(10.0, std::floor(std::log10(value)) - 1);
  return std::ceil(value / unit - 1e-9) * unit;
}

/// What would fit, in the words of a config: the momentum, and the decay that says the same. Empty
/// for rules without a momentum. @param faster how much
std::string advice(const Node& options, double faster) {
  const Node* const momentum = set_key(options, "momentum");
  if (!momentum || !momentum->is_number()) return "";
  const double fits = rounded_up(momentum->as_double() * faster);
  if (fits >= 0.5) return "";  // too short a run for it
  return fmt::format("momentum: {:.9g} (the same as decay: {:.9g}) would fit, or ", fits, 1 - fits);
}

/// Rules whose average is a plain mean of snapshots: each has the same weight, and none is first.
bool is_mean(const std::string& rule) {
  return rule == StochasticWeightAverageOptions::kName ||
         rule == SlidingWindowAverageOptions::kName;
}

/// "the average 'slow' (CosineEMA)"
std::string average_title(const NamedAverage& item) {
  return fmt::format("{} ({})",
                     item.name.empty() ? "the average" : fmt::format("the average '{}'", item.name),
                     item.average->rule_name());
}

std::string horizon_warning(const NamedAverage& item) {
  if (is_mean(item.average->rule_name())) return "";
  const Node options = item.average->rule_options();
  const Node* interval = set_key(options, "interval");
  const int64_t every = interval && interval->is_int() ? interval->as_int() : 1;
  const int64_t calls = std::min(item.updates, kMostCalls);
  double logarithm = 0;  // of what is left of the first weights
  for (int64_t k = every; k < calls && logarithm > -kHorizons; k += every) {
    const double weight = item.average->weight(k);
    if (weight >= 1) return "";
    logarithm += std::log1p(-weight);
  }
  // A little more than a third is no reason for a word.
  if (calls <= 1 || logarithm <= -0.97 * kHorizons) return "";
  const std::string hint = logarithm < 0 ? advice(options, kHorizons / -logarithm) : "";
  return fmt::format(
      "EMAHook: {} is too slow for this run: after its {} updates, the first weights are still "
      "{:.0f} % of it; a horizon (interval / momentum) of at most a third of the run leaves 5 %; "
      "{} "
      "with a fast start (docs/choosing_an_average.md)",
      average_title(item), item.updates, 100 * std::exp(logarithm),
      hint + (hint.empty() ? "use a rule" : "a rule"));
}

/// Of a schedule with a length of its own.
std::string length_warning(const NamedAverage& item) {
  const Node options = item.average->rule_options();
  const Node* const length = set_key(options, "max_iters");
  if (!length || !length->is_int() || item.has_length_of_run) return "";
  const int64_t updates = length->as_int();
  if (updates < 1 || updates >= item.updates) return "";
  if (item.average->weight(item.updates - 1) == 0) {
    return fmt::format(
        "EMAHook: {} has max_iters: {}, but the run makes {} updates; its weight is 0 from there "
        "on, so the average stays as it is then; without max_iters it has the run's length",
        average_title(item), updates, item.updates);
  }
  const Node* const momentum = set_key(options, "momentum");
  if (!momentum || !momentum->is_number() || momentum->as_double() <= 0) return "";
  const double horizon = 1 / momentum->as_double();
  if (static_cast<double>(updates) >= horizon) return "";
  return fmt::format(
      "EMAHook: {} has max_iters: {}, less than its horizon at the start, {:.4g} updates "
      "(1 / momentum), so its schedule has little effect; without max_iters it has the run's "
      "length, {} updates",
      average_title(item), updates, horizon, item.updates);
}

/// Of a mean of weights in a network with BatchNorm: the layers have the statistics of the last
/// weights, which differ more from those of a mean than from those of a moving average.
std::string statistics_warning(const NamedAverage& item, TrainRunner& runner) {
  const Node options = item.average->rule_options();
  const Node* const buffers = set_key(options, "update_buffers");
  if (!is_mean(item.average->rule_name()) || (buffers && buffers->as_bool())) return "";
  bool has_estimator = false;
  runner.hooks().call([&](Hook& hook) { has_estimator |= hook.name() == "PreciseBNHook"; });
  const std::vector<NamedTensor> tensors = runner.model().tensors();
  const auto is_statistic = [](const NamedTensor& tensor) {
    const std::string name = "running_mean";
    return tensor.buffer && tensor.name.size() > name.size() &&
           tensor.name.compare(tensor.name.size() - name.size(), name.size(), name) == 0;
  };
  if (has_estimator || std::none_of(tensors.begin(), tensors.end(), is_statistic)) return "";
  return fmt::format(
      "EMAHook: {} is a mean of weights, but its BatchNorm layers have the statistics of the raw "
      "ones; add {{type: PreciseBNHook}} to custom_hooks, or set update_buffers: true",
      average_title(item));
}

}  // namespace

std::vector<std::string> run_warnings(TrainRunner& runner) {
  std::vector<std::string> warnings;
  for (const NamedAverage& item : runner.averages()) {
    std::string speed = length_warning(item);
    if (speed.empty()) speed = horizon_warning(item);
    for (const std::string& text : {speed, statistics_warning(item, runner)}) {
      if (!text.empty()) warnings.push_back(text);
    }
  }
  return warnings;
}

}  // namespace polyak::cli
