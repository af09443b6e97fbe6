// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/horizon.h"

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

}  // namespace

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
      "EMAHook: {} ({}) is too slow for this run: after its {} updates, the first weights are "
      "still "
      "{:.0f} % of it; a horizon (1 / momentum) of at most a third of the run leaves 5 %; {} "
      "with a fast start (docs/choosing_an_average.md)",
      item.name.empty() ? "the average" : fmt::format("the average '{}'", item.name),
      item.average->rule_name(), item.updates, 100 * std::exp(logarithm),
      hint + (hint.empty() ? "use a rule" : "a rule"));
}

}  // namespace polyak::cli
