// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>

#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average that starts fast: the weight at call k is `max(momentum, gamma /
/// (gamma + k))`. Source: MMEngine, MomentumAnnealingEMA.
struct MomentumAnnealingEMAOptions : MomentumOptions<MomentumAnnealingEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "MomentumAnnealingEMA";
  static constexpr const char* kDoc =
      "EMA whose weight falls from 1 to momentum as gamma / (gamma + k).";

  MomentumAnnealingEMAOptions() : MomentumOptions(0.0002) {}

  /// How long the fast start lasts, in updates: the weight falls as gamma / (gamma + k). Above 0.
  MomentumAnnealingEMAOptions& gamma(double value) { return gamma_ = value, *this; }
  double gamma() const { return gamma_; }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    return std::max(momentum(), gamma_ / (gamma_ + static_cast<double>(clock.updates)));
  }
  /// See AverageOptions::lasting_weight().
  double lasting_weight() const { return momentum(); }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.key("gamma", &gamma_,
                "How long the fast start lasts: the weight falls as gamma / (gamma + k).",
                above(0));
  }

 private:
  double gamma_ = 100;
};

}  // namespace polyak
