// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "polyak/core/error.h"
#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average whose momentum follows a half cosine over the run:
///
///     m(k) = end + (start - end) * (1 + cos(pi * k / K)) / 2,    k = updates so far, K = max_iters
///
/// so m goes from `momentum` at k = 0 to `end_momentum` at k = K, and stays there. The first update
/// copies. Source: BYOL (Grill et al. 2020, arXiv:2006.07733) and mmpretrain's CosineEMA.
/// mmpretrain's docstring has the wrong sign in the second term (its code is right), and its
/// momentum rises again beyond K.
struct CosineEMAOptions : MomentumOptions<CosineEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "CosineEMA";
  static constexpr const char* kDoc =
      "EMA whose momentum goes from momentum to end_momentum along a half cosine over the run.";

  CosineEMAOptions() : MomentumOptions(0.004) {}

  /// The weight that the schedule ends with, in [0, 1].
  CosineEMAOptions& end_momentum(double value) { return end_momentum_ = value, *this; }
  double end_momentum() const { return end_momentum_; }
  /// K: the updates over which the momentum goes from start to end, at least 1. Required, unless
  /// the training loop knows its own length.
  CosineEMAOptions& max_iters(Length value) { return max_iters_ = value, *this; }
  std::optional<int64_t> max_iters() const {
    if (!max_iters_ || max_iters_->unit != Length::Unit::updates) return std::nullopt;
    return static_cast<int64_t>(max_iters_->value);
  }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    const double length = max_iters_ ? max_iters_->value : static_cast<double>(clock.run_length);
    const double done = std::min(static_cast<double>(clock.updates) / length, 1.0);
    return end_momentum_ + (momentum() - end_momentum_) * (1 + std::cos(M_PI * done)) / 2;
  }
  /// See AverageOptions::set_run_length().
  void set_run_length(int64_t updates) {
    if (!max_iters_) max_iters_ = updates;
  }
  void resolve(const RunLengths& run) {
    MomentumOptions::resolve(run);
    if (max_iters_) resolve_length(*max_iters_, run, /*least=*/1);
  }
  void check_lengths() const {
    MomentumOptions::check_lengths();
    if (max_iters_) check_resolved(*max_iters_, kName, "max_iters");
  }
  /// @throws ConfigError if max_iters is not set
  void check_complete() const {
    if (max_iters_) return;
    fail<ConfigError>(
        "CosineEMA: max_iters: is required, because the length of the run is unknown; set it to "
        "the number of optimizer steps");
  }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.key("end_momentum", &end_momentum_, "The momentum that the schedule ends with.",
                closed_interval(0, 1));
    visitor.number_or_text<length_text, parse_length>(
        "max_iters", &max_iters_,
        "Updates over which the momentum goes to end_momentum; null: the length of the run.");
  }
  void validate() const override {
    MomentumOptions::validate();
    if (max_iters_) check_length(*max_iters_, "max_iters", 1);
  }

 private:
  double end_momentum_ = 0.0;
  std::optional<Length> max_iters_;
};

}  // namespace polyak
