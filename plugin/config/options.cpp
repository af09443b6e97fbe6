#include "polyak/config/options.h"

#include <algorithm>
#include <cmath>

#include "polyak/config/check.h"

namespace polyak {
namespace {

constexpr double kLargest = std::numeric_limits<double>::max();
constexpr double kMostCounted = 2147483647;        // 2^31 - 1
constexpr double kMostSteps = 9007199254740992.0;  // 2^53

template <class T>
void check_bounds(T value, const Bounds& bounds, std::string& problem) {
  if (bounds.contains(static_cast<double>(value))) return;
  // A limit of counts says nothing to who is below the least.
  const bool counts = bounds.high == kMostCounted || bounds.high == kMostSteps;
  const bool low = static_cast<double>(value) < bounds.low;
  const std::string range = counts && low ? at_least(bounds.low).text() : bounds.text();
  problem = fmt::format("must be {}, got {}", range.empty() ? "finite" : range, value);
}

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
  return closed_interval(low, kMostCounted);
}
Bounds steps_from(double low) {
  return closed_interval(low, kMostSteps);
}

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

OptionVisitor::~OptionVisitor() = default;
Options::~Options() = default;

void OptionVisitor::key(const char* name, OptionValue value, const char* doc, Bounds bounds) {
  visit(Key{name, doc, bounds, {}, false}, value);
}

void OptionVisitor::choice(const char* name, OptionValue value,
                           std::initializer_list<const char*> choices, const char* doc) {
  visit(Key{name, doc, {}, {choices.begin(), choices.end()}, false}, value);
}

void OptionVisitor::required(const char* name, OptionValue value, const char* doc, Bounds bounds) {
  visit(Key{name, doc, bounds, {}, true}, value);
}

}  // namespace polyak
