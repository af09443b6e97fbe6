// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "polyak/rules/average_options.h"

namespace polyak {

/// EMA without the lag of an average: with t optimizer steps so far,
///
///     average   += max((rho + gamma * t)^-kappa, min_ema_multiplier) * (weights - average)
///     published  = average + (rho + gamma * t)^-eta * (weights - first weights)
///
/// Published values are what is evaluated, swapped in and saved; they change at the updates that
/// average. rho is `lag`, gamma `multiplier`, kappa `ema_power`, eta `bias_power`.
/// Source: Block and Zhang 2025, arXiv:2508.00180; TRL, BEMACallback: with its update_after of 0,
/// the first weights are the initial ones (`start: initial`).
struct BEMAOptions : AverageOptions<BEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "BEMA";
  static constexpr const char* kDoc =
      "EMA whose lag is corrected by the distance from the first weights; keeps those as well.";
  static constexpr bool kScales = false;  // the weight follows from the steps of the run

  /// Above 0.
  BEMAOptions& lag(double value) { return lag_ = value, *this; }
  double lag() const { return lag_; }
  /// At least 0.
  BEMAOptions& ema_power(double value) { return ema_power_ = value, *this; }
  double ema_power() const { return ema_power_; }
  /// At least 0.
  BEMAOptions& bias_power(double value) { return bias_power_ = value, *this; }
  double bias_power() const { return bias_power_; }
  /// At least 0.
  BEMAOptions& multiplier(double value) { return multiplier_ = value, *this; }
  double multiplier() const { return multiplier_; }
  /// The first weights are those after this many optimizer steps; 0 and 1 are the first update's.
  BEMAOptions& update_after(Length value) { return update_after_ = value, *this; }
  int64_t begins_after() const {
    return std::max<int64_t>(static_cast<int64_t>(update_after_.value) - 1, 0);
  }
  /// In [0, 1].
  BEMAOptions& min_ema_multiplier(double value) { return min_ema_multiplier_ = value, *this; }
  double min_ema_multiplier() const { return min_ema_multiplier_; }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    return std::clamp(std::pow(age(clock), -ema_power_), min_ema_multiplier_, 1.0);
  }
  /// How much of the distance from the first weights is added to the average to publish it.
  double correction(const Clock& clock) const { return std::pow(age(clock), -bias_power_); }

  void visit(OptionVisitor& visitor) override {
    visitor.key("lag", &lag_, "rho: the weight is (rho + gamma * t)^-kappa.", above(0));
    visitor.key("ema_power", &ema_power_, "kappa.", at_least(0));
    visitor.key("bias_power", &bias_power_,
                "eta: the distance from the first weights times (rho + gamma * t)^-eta is added.",
                at_least(0));
    visitor.key("multiplier", &multiplier_, "gamma.", at_least(0));
    visitor.number_or_text<length_text, parse_length>(
        "update_after", &update_after_, "Optimizer steps before the first weights are taken.");
    visitor.key("min_ema_multiplier", &min_ema_multiplier_, "The smallest weight.",
                closed_interval(0, 1));
    AverageOptions::visit(visitor);
  }
  void validate() const override {
    AverageOptions::validate();
    check_length(update_after_, "update_after", 0);
    if (precision() == Precision::compensated) {
      fail_option("precision", "cannot be compensated for BEMA; use float64");
    }
  }
  /// See AverageOptions::resolve().
  void resolve(const RunLengths& run) {
    AverageOptions::resolve(run);
    resolve_length(update_after_, run);
  }
  /// See AverageOptions::check_lengths().
  void check_lengths() const {
    AverageOptions::check_lengths();
    check_resolved(update_after_, kName, "update_after");
  }

 private:
  double age(const Clock& clock) const {
    return lag_ + multiplier_ * static_cast<double>(clock.optimizer_steps);
  }

  double lag_ = 10;
  double ema_power_ = 0.5;
  double bias_power_ = 0.2;
  double multiplier_ = 1;
  Length update_after_;
  double min_ema_multiplier_ = 0;
};

}  // namespace polyak
