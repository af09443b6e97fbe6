// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// What lengths in other units than updates are relative to. An update is a call of
/// update_parameters: by default one for each optimizer step. 0 means unknown.
struct RunLengths {
  int64_t run = 0;         // updates that the run makes
  double epoch = 0;        // updates in an epoch; not an integer if an epoch ends between two steps
  int64_t batch_size = 0;  // samples of an update, accumulation included
};

/// A length of training. A config writes `2000` (updates), `2ep` (epochs), `5%` (of the run) or
/// `100000samples`.
struct Length {
  /// What the value counts.
  enum class Unit { updates, epochs, percent, samples };

  Length() = default;
  /// A number of updates.
  Length(int64_t updates) : value(static_cast<double>(updates)) {}  // NOLINT: as a config writes it
  /// A number of any unit.
  Length(double value, Unit unit) : value(value), unit(unit) {}

  double value = 0;           // at least 0
  Unit unit = Unit::updates;  // of the value
};

/// @throws OptionError for a text that is not a length, or a negative one
POLYAK_API Length parse_length(const std::string& text);
/// As a config writes it.
POLYAK_API std::string length_text(const Length& length);

/// The length in updates; not rounded. Empty if its unit is relative to something unknown.
POLYAK_API std::optional<double> updates_in(const Length& length, const RunLengths& run);
/// Replaces a length by its updates, rounded to an integer of at least `least` unless `least` is
/// negative. @return whether that was possible
POLYAK_API bool resolve_length(Length& length, const RunLengths& run, int64_t least = 0);
/// For lengths that count updates. @throws OptionError for a fraction of an update, fewer than
/// `least`, or 0 in another unit unless `least` is 0
POLYAK_API void check_length(const Length& length, const char* key, int64_t least);
/// @throws ConfigError unless the length is in updates
POLYAK_API void check_resolved(const Length& length, const char* rule, const char* key);
/// What a message says of a length that cannot be resolved: "needs the length of an epoch, which is
/// unknown here; give it in updates, as in 'half_life: 2000'".
POLYAK_API std::string why_unresolved(const Length& length, const char* key);

}  // namespace polyak
