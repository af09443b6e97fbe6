// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "polyak/runtime/hook.h"

namespace polyak {

struct POLYAK_API EarlyStoppingHookOptions : Options {
  /// A metric of the validation; `accuracy_origin` or `accuracy_NAME` where an EMAHook measures
  /// other weights.
  EarlyStoppingHookOptions& monitor(std::string value) {
    return monitor_ = std::move(value), *this;
  }
  const std::string& monitor() const { return monitor_; }
  /// "greater" or "less"; null: inferred from the metric's name.
  EarlyStoppingHookOptions& rule(std::optional<std::string> value) {
    return rule_ = std::move(value), *this;
  }
  const std::optional<std::string>& rule() const { return rule_; }
  /// The least change that counts as better, in the metric's units; at least 0.
  EarlyStoppingHookOptions& min_delta(double value) { return min_delta_ = value, *this; }
  double min_delta() const { return min_delta_; }
  /// Fails where the metric is missing, instead of a warning.
  EarlyStoppingHookOptions& strict(bool value) { return strict_ = value, *this; }
  bool strict() const { return strict_; }
  /// Ends training where the metric is not finite.
  EarlyStoppingHookOptions& check_finite(bool value) { return check_finite_ = value, *this; }
  bool check_finite() const { return check_finite_; }
  /// Validations in sequence that may be no better, at least 1.
  EarlyStoppingHookOptions& patience(int64_t value) { return patience_ = value, *this; }
  int64_t patience() const { return patience_; }
  /// Ends training as soon as the metric is better than this.
  EarlyStoppingHookOptions& stopping_threshold(std::optional<double> value) {
    return stopping_threshold_ = value, *this;
  }
  std::optional<double> stopping_threshold() const { return stopping_threshold_; }

  void visit(OptionVisitor& visitor) override;
  void validate() const override;
  /// Whether larger values are better, by `rule` or the name.
  bool larger_is_better() const;

 private:
  std::string monitor_;
  std::optional<std::string> rule_;
  double min_delta_ = 0.1;
  bool strict_ = false;
  bool check_finite_ = true;
  int64_t patience_ = 5;
  std::optional<double> stopping_threshold_;
};

/// Ends training when a metric has not improved for some validations, as MMEngine's hook of this
/// name does. The run's checkpoint is written as at its end; the best value and the count survive a
/// resume, which MMEngine's do not.
class POLYAK_API EarlyStoppingHook : public Hook {
 public:
  /// @throws ConfigError
  explicit EarlyStoppingHook(EarlyStoppingHookOptions options);

  std::string name() const override { return "EarlyStoppingHook"; }
  int priority() const override { return kLow; }  // after the hooks that measure averages
  void check_run(Runner& runner) override;
  void after_val_epoch(Runner& runner, Scalars& metrics) override;

 private:
  Value& record(Runner& runner) const;
  std::string reason_to_stop(Value& record, double value) const;
  bool is_better(double a, double b) const { return larger_is_better_ ? a > b : a < b; }

  EarlyStoppingHookOptions options_;
  bool larger_is_better_;
};

}  // namespace polyak
