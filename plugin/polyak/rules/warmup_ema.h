// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "polyak/core/export.h"
#include "polyak/rules/average_options.h"

namespace polyak {

/// How a WarmupEMA's decay grows.
enum class WarmupForm {
  power,  // 1 - (1 + k / gamma)^-power
  ratio,  // (1 + k) / (10 + k)
};
/// The name in configs: "power" or "ratio".
POLYAK_API std::string warmup_form_name(WarmupForm form);
/// @throws OptionError for another name
POLYAK_API WarmupForm parse_warmup_form(const std::string& name);

/// Exponential moving average whose decay grows to 1 - momentum, with k updates so far:
///
///     form: power    decay(k) = 1 - (1 + k / gamma)^-power, between min_decay and 1 - momentum
///     form: ratio    decay(k) = (1 + k) / (10 + k), likewise
///
/// Until then, and at first, the average is a copy; k counts from `update_after_step`.
/// Sources: power: k-diffusion (EMAWarmup), timm (ModelEmaV3), diffusers (use_ema_warmup),
/// ema-pytorch. ratio: TensorFlow (num_updates), torch-ema, diffusers without warm-up. TensorFlow
/// and torch-ema begin with the initial weights: `start: initial`.
struct WarmupEMAOptions : MomentumOptions<WarmupEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "WarmupEMA";
  static constexpr const char* kDoc =
      "EMA whose decay grows to its final value, as in timm, diffusers and TensorFlow.";

  WarmupEMAOptions() : MomentumOptions(0.0001) {}

  WarmupEMAOptions& form(WarmupForm value) { return form_ = value, *this; }
  WarmupForm form() const { return form_; }
  /// Updates in which form power's decay becomes 1 - 2^-power. Above 0.
  WarmupEMAOptions& gamma(double value) { return gamma_ = value, *this; }
  double gamma() const { return gamma_; }
  /// 2/3 for runs of a million steps, 3/4 for shorter ones. Above 0.
  WarmupEMAOptions& power(double value) { return power_ = value, *this; }
  double power() const { return power_; }
  /// In [0, 1).
  WarmupEMAOptions& min_decay(double value) { return min_decay_ = value, *this; }
  double min_decay() const { return min_decay_; }
  /// Updates that are not averaged.
  WarmupEMAOptions& update_after_step(Length value) { return update_after_step_ = value, *this; }
  /// The last update up to update_after_step that `interval` selects: it is copied.
  int64_t begins_after() const { return delay() / interval() * interval(); }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    const double k = static_cast<double>(clock.updates - (delay() - begins_after()));
    // Computed as 1 - decay, which is exact near 1.
    const double weight =
        form_ == WarmupForm::ratio ? 9 / (10 + k) : std::pow(1 + k / gamma_, -power_);
    return std::clamp(weight, std::min(momentum(), 1 - min_decay_), 1 - min_decay_);
  }
  /// See AverageOptions::lasting_weight().
  double lasting_weight() const { return momentum(); }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.text<warmup_form_name, parse_warmup_form>(
        "form", &form_, {"power", "ratio"},
        "How the decay grows: 1 - (1 + k / gamma)^-power, or (1 + k) / (10 + k).");
    visitor.key("gamma", &gamma_, "Form power: updates until the decay is 1 - 2^-power.", above(0));
    visitor.key("power", &power_, "Form power: 2/3 for very long runs, 3/4 for others.", above(0));
    visitor.key("min_decay", &min_decay_, "The decay is at least this.",
                Bounds{0, 1, /*low_open=*/false, /*high_open=*/true});
    visitor.number_or_text<length_text, parse_length>(
        "update_after_step", &update_after_step_,
        "Updates before the average starts; until then it is the model.");
  }
  void validate() const override {
    MomentumOptions::validate();
    check_length(update_after_step_, "update_after_step", 0);
    if (1 - min_decay_ < momentum()) {
      fail_option("min_decay", "is {}, above the final decay of {}", min_decay_, 1 - momentum());
    }
  }
  /// See AverageOptions::resolve().
  void resolve(const RunLengths& run) {
    MomentumOptions::resolve(run);
    resolve_length(update_after_step_, run);
  }
  /// See AverageOptions::check_lengths().
  void check_lengths() const {
    MomentumOptions::check_lengths();
    check_resolved(update_after_step_, kName, "update_after_step");
  }

 private:
  int64_t delay() const { return static_cast<int64_t>(update_after_step_.value); }

  WarmupForm form_ = WarmupForm::power;
  double gamma_ = 1;
  double power_ = 2.0 / 3;
  double min_decay_ = 0;
  Length update_after_step_;
};

}  // namespace polyak
