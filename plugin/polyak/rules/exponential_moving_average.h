// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average with a constant momentum m: `avg = (1 - m) * avg + m * source`.
/// Source: MMEngine, ExponentialMovingAverage (Polyak and Juditsky 1992 for averaging in general).
struct ExponentialMovingAverageOptions : MomentumOptions<ExponentialMovingAverageOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "ExponentialMovingAverage";
  static constexpr const char* kDoc = "Exponential moving average with a constant momentum.";

  ExponentialMovingAverageOptions() : MomentumOptions(0.0002) {}

  /// Averages from zero, and divides by the weight that real values have: 1 - (1 - m)^n after n
  /// averaging updates, as Adam does for its moments. The first of them copies then, and the next
  /// ones weigh more than m. Without it, the copied first value keeps the weight (1 - m)^(n - 1).
  /// Sources: Adam (Kingma and Ba 2015); optax, Paddle, tiny-cuda-nn.
  ExponentialMovingAverageOptions& bias_correction(bool value) {
    return bias_correction_ = value, *this;
  }
  bool bias_correction() const { return bias_correction_; }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    return bias_correction_ ? scaled_weight(clock) : momentum();
  }
  /// See AverageOptions::scaled_weight().
  double scaled_weight(const Clock& clock) const {
    const double m = scaled(momentum(), clock);
    return bias_correction_ ? m / filled_after(clock) : m;
  }
  /// See AverageOptions::filled_after().
  double filled_after(const Clock& clock) const {
    if (!bias_correction_) return -1;
    const double m = scaled(momentum(), clock);
    const int64_t before = (clock.updates + interval() - 1) / interval();  // averaging updates
    const auto n = static_cast<double>(before);
    const double filled = clock.filled < 0 ? -std::expm1(n * std::log1p(-m)) : clock.filled;
    return filled + (1 - filled) * m;
  }
  /// See AverageOptions::lasting_weight().
  double lasting_weight() const { return momentum(); }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.key("bias_correction", &bias_correction_,
                "Average from zero and divide by the weight of the real values, as Adam does.");
  }
  void validate() const override {
    MomentumOptions::validate();
    if (bias_correction_ && start() == AverageStart::initial) {
      fail_option("bias_correction", "averages from zero, so 'start: initial' has no meaning");
    }
  }

 private:
  bool bias_correction_ = false;
};

}  // namespace polyak
