// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/length.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "polyak/config/options.h"

namespace polyak {
namespace {

struct UnitName {
  const char* text;
  Length::Unit unit;
  const char* needs;
};
constexpr UnitName kUnits[] = {
    {"", Length::Unit::updates, ""},
    {"ep", Length::Unit::epochs, "the length of an epoch"},
    {"%", Length::Unit::percent, "the length of the run"},
    {"samples", Length::Unit::samples, "the batch size"},
};

const UnitName& name_of(Length::Unit unit) {
  return *std::find_if(std::begin(kUnits), std::end(kUnits),
                       [&](const UnitName& name) { return name.unit == unit; });
}

}  // namespace

Length parse_length(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const bool is_decimal = text.find_first_of("xXnN") == std::string::npos;  // not nan, inf, 0x10
  const std::string rest(end);
  const auto unit = std::find_if(std::begin(kUnits), std::end(kUnits),
                                 [&](const UnitName& name) { return rest == name.text; });
  if (end == text.c_str() || unit == std::end(kUnits) || !is_decimal || !std::isfinite(value)) {
    throw ConfigError(fmt::format(
        "'{}' is not a length; write updates (2000), epochs (2ep), a part of the run (5%) or "
        "samples (100000samples)",
        text));
  }
  if (value < 0) throw ConfigError(fmt::format("must not be negative, got {}", text));
  if (unit->unit == Length::Unit::percent && value > 100) {
    throw ConfigError(fmt::format("must be at most 100%, got {}", text));
  }
  if (value > kMaxSteps) throw ConfigError(fmt::format("must be at most 2^53, got {}", text));
  return {value, unit->unit};
}

std::string length_text(const Length& length) {
  const auto whole = static_cast<int64_t>(length.value);  // of at most 2^53
  const char* const unit = name_of(length.unit).text;
  return static_cast<double>(whole) == length.value ? fmt::format("{}{}", whole, unit)
                                                    : fmt::format("{}{}", length.value, unit);
}

std::optional<double> updates_in(const Length& length, const RunLengths& run) {
  switch (length.unit) {
    case Length::Unit::epochs:
      if (run.epoch > 0) return length.value * run.epoch;
      return std::nullopt;
    case Length::Unit::percent:
      if (run.run > 0) return length.value / 100 * static_cast<double>(run.run);
      return std::nullopt;
    case Length::Unit::samples:
      if (run.batch_size > 0) return length.value / static_cast<double>(run.batch_size);
      return std::nullopt;
    default:
      return length.value;
  }
}

bool resolve_length(Length& length, const RunLengths& run, int64_t least) {
  const std::optional<double> updates = updates_in(length, run);
  if (!updates) return false;
  if (length.unit == Length::Unit::updates) return true;
  const double rounded =
      least < 0 ? *updates : std::max(std::round(*updates), static_cast<double>(least));
  length = {rounded, Length::Unit::updates};
  return true;
}

void check_length(const Length& length, const char* key, int64_t least) {
  if (length.unit != Length::Unit::updates) {
    if (length.value <= 0 && least > 0) {
      fail_option(key, "must be above 0, got {}", length_text(length));
    }
    return;
  }
  if (length.value < static_cast<double>(least)) {
    fail_option(key, "must be at least {}, got {}", least, length_text(length));
  }
  if (length.value != std::floor(length.value)) {
    fail_option(key, "must be an integer or a length such as 2ep, got {}", length_text(length));
  }
}

void check_resolved(const Length& length, const char* rule, const char* key) {
  if (length.unit == Length::Unit::updates) return;
  fail<ConfigError>("{}: {}: {}", rule, key, why_unresolved(length, key));
}

std::string why_unresolved(const Length& length, const char* key) {
  return fmt::format("{} needs {}, which is unknown here; give it in updates, as in '{}: 2000'",
                     length_text(length), name_of(length.unit).needs, key);
}

}  // namespace polyak
