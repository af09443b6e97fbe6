// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>

#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average whose half-life is a fixed part of the run so far, so that no length
/// has to be known: decay = 2^(-1 / (f * n)) at the n-th averaging update, with
/// f = half_life_fraction. With f = 0.05, half of the weight lies in the last 5 % of the run, and
/// the mean age is 6.7 % of it. This is not a fixed `half_life: 5%` of the whole run.
/// Source: torchtitan, EMA (half_life_fraction), which begins with the initial weights.
struct GrowingHalfLifeEMAOptions : AverageOptions<GrowingHalfLifeEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "GrowingHalfLifeEMA";
  static constexpr const char* kDoc =
      "EMA whose half-life is a part of the run so far, for runs of unknown length.";
  static constexpr bool kScales = false;  // the half-life grows with the run, whatever the interval

  /// The half-life as a part of the updates so far, above 0 and at most 1.
  GrowingHalfLifeEMAOptions& half_life_fraction(double value) { return fraction_ = value, *this; }
  double half_life_fraction() const { return fraction_; }
  /// Updates that count as made before the run, such as those of the run that this one continues.
  GrowingHalfLifeEMAOptions& step_bias(int64_t value) { return step_bias_ = value, *this; }
  int64_t step_bias() const { return step_bias_; }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    const int64_t first = start() == AverageStart::initial ? 0 : 1;  // the copy counts
    const int64_t n = std::max<int64_t>((clock.updates + step_bias_) / interval() + first, 1);
    return -std::expm1(-M_LN2 / (fraction_ * static_cast<double>(n)));
  }
  /// See AverageOptions::lasting_weight(). That after 1000 averaging updates.
  double lasting_weight() const { return -std::expm1(-M_LN2 / (fraction_ * 1000)); }

  void visit(OptionVisitor& visitor) override {
    visitor.key("half_life_fraction", &fraction_,
                "The half-life as a part of the updates so far; 0.05: half of the weight lies in "
                "the last 5 %.",
                Bounds{0, 1, /*low_open=*/true, /*high_open=*/false});
    visitor.key("step_bias", &step_bias_, "Updates that count as made before the run.",
                steps_from(0));
    AverageOptions::visit(visitor);
  }

 private:
  double fraction_ = 0.05;
  int64_t step_bias_ = 0;
};

}  // namespace polyak
