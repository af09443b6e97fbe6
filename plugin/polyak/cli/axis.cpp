// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace polyak::cli {
namespace {

/// 1, 2 or 5 times a power of ten, at least `least`.
double round_step(double least) {
  const double power = std::pow(10.0, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

/// Divides the range evenly, and extends it to a label that is just beyond it.
void even_ticks(Axis& axis, int most, double least) {
  constexpr double kClose = 0.05;  // of the distance between labels
  const double step = std::max(round_step((axis.high - axis.low) / std::max(most - 1, 1)), least);
  const double above = std::ceil(axis.high / step - 1e-9) * step;
  if (above - axis.high < kClose * step) axis.high = above;
  const double largest = std::max(std::abs(axis.low), std::abs(axis.high));
  const double first = std::ceil(axis.low / step - 1e-9);
  for (int i = 0; i <= most; ++i) {
    double value = (first + i) * step;
    if (value > axis.high + 1e-9 * step) break;
    if (std::abs(value) < 1e-9 * step) value = 0;
    axis.ticks.push_back({value, number_label(value, step, largest)});
  }
}

/// Powers of ten; within one or two of them, also 2 and 5 times these.
std::vector<Tick> log_ticks(double low, double high, int most) {
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(high) - 1e-9));
  const int stride = std::max(1, (last - first + most - 1) / std::max(most - 1, 1));
  const bool few = 3 * (last - first) <= most;
  std::vector<Tick> ticks;
  for (int power = first; power <= last; power += stride) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double value = factor * std::pow(10.0, power);
      const bool inside = value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9);
      if (inside && (factor == 1.0 || few)) ticks.push_back({value, number_label(value)});
    }
  }
  return ticks;
}

std::string without_zeros(std::string text) {
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

}  // namespace

double Axis::position(double value) const {
  return scale == Scale::log ? std::log(value / low) / std::log(high / low)
                             : (value - low) / (high - low);
}

std::string number_label(double value, double step, double largest) {
  const double size = std::abs(value);
  if (value == 0) return "0";
  for (const auto& [unit, name] : {std::pair(1e9, "G"), {1e6, "M"}, {1e3, "k"}}) {
    const double most = std::max(size, largest);
    if (most < unit || most < 1e4) continue;
    return without_zeros(fmt::format("{:.3f}", value / unit)) + name;
  }
  if (size < 1e-4 || size >= 1e12) {  // 1e-5, not 1e-05
    const int power = static_cast<int>(std::floor(std::log10(size) + 1e-9));
    return without_zeros(fmt::format("{:.2f}", value / std::pow(10.0, power))) +
           fmt::format("e{}", power);
  }
  if (step <= 0) return fmt::format("{:.6g}", value);
  const int decimals = std::clamp(static_cast<int>(-std::floor(std::log10(step) + 1e-9)), 0, 9);
  return fmt::format("{:.{}f}", value, decimals);
}

Axis make_axis(double low, double high, Scale scale, int most_ticks, double least_step) {
  if (!(high > low)) {  // a single value gets room on both sides
    const double room = low == 0 ? 1 : std::abs(low) / 2;
    high = low + room;
    low -= room;
  }
  Axis axis{low, high, scale, {}};
  if (scale == Scale::log) axis.ticks = log_ticks(low, high, most_ticks);
  if (scale == Scale::linear) even_ticks(axis, most_ticks, least_step);
  return axis;
}

}  // namespace polyak::cli
