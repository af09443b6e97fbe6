// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/horizon.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

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

/// The key of the same rule that would fit, where the rule has a momentum. @param faster how much
std::string advice(const Node& options, double faster) {
  const Node* decay = set_key(options, "decay");
  const Node* momentum = set_key(options, "momentum");
  const Node* half_life = set_key(options, "half_life");
  if (half_life && half_life->is_number()) {
    return fmt::format("half_life: {:.0f} would fit, or ",
                       std::max(1.0, std::floor(half_life->as_double() / faster)));
  }
  const bool is_decay = decay && decay->is_number();
  if (!is_decay && !(momentum && momentum->is_number())) return "";
  const double now = is_decay ? 1 - decay->as_double() : momentum->as_double();
  const double fits = rounded_up(now * faster);
  if (fits >= 0.5) return "";  // too short a run for it
  return is_decay ? fmt::format("decay: {:.9g} would fit, or ", 1 - fits)
                  : fmt::format("momentum: {:.9g} would fit, or ", fits);
}

}  // namespace

std::string horizon_warning(const NamedAverage& item) {
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
  return fmt::format(
      "EMAHook: {} ({}) is too slow for this run: after its {} updates, the first weights are "
      "still "
      "{:.0f} % of it; a horizon (1 / momentum) of at most a third of the run leaves 5 %. {}a rule "
      "with a fast start (docs/choosing_an_average.md)",
      item.name.empty() ? "the average" : fmt::format("the average '{}'", item.name),
      item.average->rule_name(), item.updates, 100 * std::exp(logarithm),
      logarithm < 0 ? advice(options, kHorizons / -logarithm) : "");
}

}  // namespace polyak::cli
