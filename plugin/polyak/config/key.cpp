// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/key.h"

#include <fmt/format.h>

namespace polyak {
namespace {

constexpr double kLargest = std::numeric_limits<double>::max();

}  // namespace

bool Bounds::contains(double value) const {
  const bool above_low = low_open ? value > low : value >= low;
  const bool below_high = high_open ? value < high : value <= high;
  return above_low && below_high;  // both are false for NaN
}

std::string Bounds::text() const {
  const bool has_low = low > -kLargest, has_high = high < kLargest;
  if (has_low && has_high) {
    return fmt::format("in {}{}, {}{}", low_open ? '(' : '[', low, high, high_open ? ')' : ']');
  }
  if (has_low) return fmt::format("{} {}", low_open ? "above" : "at least", low);
  if (has_high) return fmt::format("{} {}", high_open ? "below" : "at most", high);
  return "";
}

Bounds open_interval(double low, double high) {
  return {low, high, true, true};
}
Bounds closed_interval(double low, double high) {
  return {low, high, false, false};
}
Bounds at_least(double low) {
  Bounds bounds;
  bounds.low = low;
  return bounds;
}
Bounds above(double low) {
  Bounds bounds = at_least(low);
  bounds.low_open = true;
  return bounds;
}
Bounds count_from(double low) {
  return closed_interval(low, kMaxCount);
}
Bounds steps_from(double low) {
  return closed_interval(low, kMaxSteps);
}

}  // namespace polyak
