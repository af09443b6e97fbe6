// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "polyak/core/export.h"
#include "polyak/rules/average_options.h"

namespace polyak {

/// The largest sigma_rel of a power function: 1 / sqrt(12), the plain mean of all weights.
constexpr double kMaxSigmaRel = 0.28867513459481287;
/// The exponent of the power function whose profile has the width sigma_rel, in (0, kMaxSigmaRel]:
/// the solution gamma >= 0 of sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).
POLYAK_API double power_function_gamma(double sigma_rel);
/// The width of the profile for an exponent of at least 0.
POLYAK_API double power_function_sigma_rel(double gamma);

/// Average whose memory is a constant part of the run so far: the weights of step s count as
/// s^gamma. With t the updates so far, the new ones included, and n = interval, the weight of the
/// new value is
///
///     1 - ((t - n) / t)^(gamma + 1) = 1 - (1 - n / t)^(gamma + 1)
///
/// so that an interval does not change the profile, apart from its steps. sigma_rel is the
/// profile's standard deviation as a part of the run so far; 0.05 and 0.10 are usual. No warm-up or
/// length of the run is needed. The first update copies.
/// Source: Karras et al. 2024 (EDM2), arXiv:2312.02696, section 3.1, whose implementation is right
/// for every interval; ema-pytorch's is not.
struct PowerFunctionEMAOptions : AverageOptions<PowerFunctionEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "PowerFunctionEMA";
  static constexpr const char* kDoc =
      "Average whose memory is a constant part of the run so far (EDM2's power function).";
  static constexpr bool kScales = false;  // right for every interval

  /// The width of the profile as a part of the run so far, in (0, 1 / sqrt(12)]. Set either this or
  /// gamma.
  PowerFunctionEMAOptions& sigma_rel(std::optional<double> value) {
    return sigma_rel_ = value, *this;
  }
  std::optional<double> sigma_rel() const { return sigma_rel_; }
  /// The exponent of the power function, at least 0, which is the plain mean.
  PowerFunctionEMAOptions& gamma(std::optional<double> value) { return gamma_ = value, *this; }
  std::optional<double> gamma() const { return gamma_; }
  /// The exponent, given as either.
  double exponent() const {
    return gamma_ ? *gamma_ : power_function_gamma(sigma_rel_.value_or(kMaxSigmaRel));
  }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    const double t = static_cast<double>(clock.optimizer_steps);
    const double part = std::min(static_cast<double>(interval()) / t, 1.0);
    return -std::expm1((exponent() + 1) * std::log1p(-part));
  }

  void visit(OptionVisitor& visitor) override {
    visitor.key("sigma_rel", &sigma_rel_,
                "Width of the average as a part of the run so far, such as 0.05; either this or "
                "gamma is required.",
                {0, kMaxSigmaRel, true, false});
    visitor.key("gamma", &gamma_,
                "Exponent of the power function instead; 6.94 is a sigma_rel of 0.1, 0 the mean.",
                closed_interval(0, 1e6));
    AverageOptions::visit(visitor);
  }
  void validate() const override {
    AverageOptions::validate();
    if (sigma_rel_.has_value() != gamma_.has_value()) return;
    if (gamma_) {
      fail_option("gamma", "sigma_rel and gamma both say how long the average is; remove one");
    }
    fail_option("sigma_rel", "is required, or gamma; 0.05 averages over the last 5 % or so");
  }

 private:
  std::optional<double> sigma_rel_;
  std::optional<double> gamma_;
};

}  // namespace polyak
