// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "polyak/core/error.h"
#include "polyak/rules/average_options.h"

namespace polyak {

/// The plain mean of the weights at calls b, b + interval, b + 2 * interval, ... with b = begin:
/// the weight at call k is `1 / ((k - b) / interval + 1)` with integer division. With
/// `max_snapshots` n, it does not fall below 1 / (n + 1): from then on an EMA. Re-estimate
/// BatchNorm statistics before using it (PreciseBNHook). Sources: Izmailov et al. 2018,
/// arXiv:1803.05407; MMEngine, StochasticWeightAverage; for max_snapshots, Leela Chess Zero
/// (swa_max_n).
struct StochasticWeightAverageOptions : AverageOptions<StochasticWeightAverageOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "StochasticWeightAverage";
  static constexpr const char* kDoc =
      "Mean of all weights so far (SWA); a model with BatchNorm also needs PreciseBNHook.";
  static constexpr bool kScales = false;  // the weight follows from the count of snapshots

  /// Calls of update_parameters before the first snapshot: until then, the average is the model.
  StochasticWeightAverageOptions& begin(Length value) { return begin_ = value, *this; }
  int64_t begins_after() const { return static_cast<int64_t>(begin_.value); }
  /// At least 1; empty: no limit.
  StochasticWeightAverageOptions& max_snapshots(std::optional<int64_t> value) {
    return max_snapshots_ = value, *this;
  }
  std::optional<int64_t> max_snapshots() const { return max_snapshots_; }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    int64_t snapshots = clock.updates / interval();
    if (max_snapshots_) snapshots = std::min(snapshots, *max_snapshots_);
    return 1.0 / static_cast<double>(snapshots + 1);
  }

  void visit(OptionVisitor& visitor) override {
    visitor.number_or_text<length_text, parse_length>(
        "begin", &begin_, "Updates before the first snapshot; also 75%, 2ep, 100000samples.");
    visitor.key("max_snapshots", &max_snapshots_,
                "Keep the weight at 1 / (this + 1) from then on, as an EMA; null: a plain mean.",
                count_from(1));
    AverageOptions::visit(visitor);
  }
  void validate() const override {
    AverageOptions::validate();
    check_length(begin_, "begin", 0);
  }
  /// See AverageOptions::resolve().
  void resolve(const RunLengths& run) {
    AverageOptions::resolve(run);
    resolve_length(begin_, run);
  }
  /// See AverageOptions::check_lengths().
  void check_lengths() const {
    AverageOptions::check_lengths();
    check_resolved(begin_, kName, "begin");
  }

 private:
  Length begin_;
  std::optional<int64_t> max_snapshots_;
};

}  // namespace polyak
