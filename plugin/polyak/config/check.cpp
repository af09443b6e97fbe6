// SPDX-License-Identifier: Apache-2.0
#include "polyak/config/check.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "polyak/config/nearest.h"

namespace polyak {
namespace {

template <class T>
void check_bounds(T value, const Bounds& bounds, std::string& problem) {
  if (bounds.contains(static_cast<double>(value))) return;
  // If a count is too small, its upper limit does not matter.
  const bool counts = bounds.high == kMaxCount || bounds.high == kMaxSteps;
  const bool low = static_cast<double>(value) < bounds.low;
  const std::string range = counts && low ? at_least(bounds.low).text() : bounds.text();
  problem = fmt::format("must be {}, got {}", range.empty() ? "finite" : range, value);
}

}  // namespace

std::string problem_of(bool, const Key&) {
  return "";
}
std::string problem_of(const Node&, const Key&) {
  return "";
}

std::string problem_of(int64_t value, const Key& key) {
  std::string problem;
  check_bounds(value, key.bounds, problem);
  return problem;
}

std::string problem_of(double value, const Key& key) {
  std::string problem;
  check_bounds(value, key.bounds, problem);
  return problem;
}

std::string problem_of(const std::string& value, const Key& key) {
  const auto& choices = key.choices;
  if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end())
    return "";
  const std::string nearest = nearest_name(value, choices);
  return fmt::format("must be one of {}, got '{}'{}", fmt::join(choices, ", "), value,
                     nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest));
}

}  // namespace polyak
