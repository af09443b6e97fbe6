// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "polyak/rules/average_options.h"

namespace polyak {

/// The plain mean of the last `window` snapshots of the weights; of fewer until there are as many.
/// Exact after any number of updates: the mean is kept in float64, beside the average, and the
/// snapshots in the model's dtype. For a float32 model, that is the memory of window + 3 models.
/// Sources: LAWA (Kaddour 2022, arXiv:2209.14981); tiny-cuda-nn, Average.
struct SlidingWindowAverageOptions : AverageOptions<SlidingWindowAverageOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "SlidingWindowAverage";
  static constexpr const char* kDoc =
      "Mean of the last snapshots of the weights (LAWA); keeps each of them in memory.";
  static constexpr bool kScales = false;  // the weight follows from the count of snapshots

  /// Snapshots in the mean, at least 1.
  SlidingWindowAverageOptions& window(int64_t value) { return window_ = value, *this; }
  int64_t window() const { return window_; }
  /// A snapshot at every so many averaging updates, at least 1 of them.
  SlidingWindowAverageOptions& snapshot_every(Length value) { return every_ = value, *this; }
  int64_t snapshot_every() const { return static_cast<int64_t>(every_.value); }

  /// The snapshots before this update; an update that takes none has the count of the next one.
  int64_t snapshots(const Clock& clock) const {
    const int64_t stride = interval() * snapshot_every();
    return (clock.updates + stride - 1) / stride;
  }
  /// Whether an averaging update takes a snapshot.
  bool takes_snapshot(const Clock& clock) const {
    return clock.updates % (interval() * snapshot_every()) == 0;
  }
  /// The weight of the new value at an update, in [0, 1]; 0 at updates without a snapshot.
  double weight(const Clock& clock) const {
    if (!takes_snapshot(clock)) return 0;
    return 1.0 / static_cast<double>(std::min(snapshots(clock) + 1, window_));
  }
  /// See AverageOptions::lasting_weight().
  double lasting_weight() const { return 1.0 / static_cast<double>(window_); }

  void visit(OptionVisitor& visitor) override {
    visitor.key("window", &window_, "Snapshots in the mean; each takes the memory of the model.",
                count_from(1));
    visitor.number_or_text<length_text, parse_length>(
        "snapshot_every", &every_, "A snapshot at every so many averaging updates; also 1ep, 1%.");
    AverageOptions::visit(visitor);
  }
  void validate() const override {
    AverageOptions::validate();
    check_length(every_, "snapshot_every", 1);
    if (start() == AverageStart::initial) {
      fail_option("start",
                  "must be first_update for SlidingWindowAverage: its mean is of snapshots");
    }
    if (precision() == Precision::compensated) {
      fail_option("precision",
                  "cannot be compensated for SlidingWindowAverage, whose sum is exact");
    }
  }
  /// See AverageOptions::resolve().
  void resolve(const RunLengths& run) {
    AverageOptions::resolve(run);
    resolve_length(every_, run, /*least=*/1);
  }
  /// See AverageOptions::check_lengths().
  void check_lengths() const {
    AverageOptions::check_lengths();
    check_resolved(every_, kName, "snapshot_every");
  }

 private:
  int64_t window_ = 10;
  Length every_{1};
};

}  // namespace polyak
