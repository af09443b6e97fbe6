// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average that starts fast: the weight at call k is
/// `(1 - momentum) * exp(-(1 + k) / gamma) + momentum`.
/// Source: MMDetection, ExpMomentumEMA (after YOLOX).
struct ExpMomentumEMAOptions : MomentumOptions<ExpMomentumEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "ExpMomentumEMA";
  static constexpr const char* kDoc =
      "EMA whose weight falls from 1 to momentum exponentially, as in YOLOX.";

  ExpMomentumEMAOptions() : MomentumOptions(0.0002) {}

  /// How long the fast start lasts, in updates: the extra weight falls as exp(-(1 + k) / gamma).
  /// Above 0.
  ExpMomentumEMAOptions& gamma(double value) { return gamma_ = value, *this; }
  double gamma() const { return gamma_; }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    const double k = static_cast<double>(clock.updates);
    return (1 - momentum()) * std::exp(-(1 + k) / gamma_) + momentum();
  }
  /// See AverageOptions::lasting_weight().
  double lasting_weight() const { return momentum(); }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.key("gamma", &gamma_,
                "How long the fast start lasts: the extra weight falls as exp(-(1 + k) / gamma).",
                above(0));
  }

 private:
  double gamma_ = 2000;
};

}  // namespace polyak
