// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>

#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average of generative models, with a half-life in samples that grows at
/// first: the weight at call k is `1 - 0.5^(B / n)` with B = batch_size and
/// n = min(1000 * ema_kimg, (k + 1) * B * ema_rampup), at least eps.
/// Sources: StyleGAN2 (Karras et al. 2020); MMagic, RampUpEMA.
struct RampUpEMAOptions : AverageOptions<RampUpEMAOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "RampUpEMA";
  static constexpr const char* kDoc =
      "EMA with a half-life in samples that grows at first, as in StyleGAN2 and MMagic.";
  static constexpr bool kScales = false;  // the batch size is in the formula

  /// The half-life, in thousands of samples. Above 0.
  RampUpEMAOptions& ema_kimg(double value) { return ema_kimg_ = value, *this; }
  double ema_kimg() const { return ema_kimg_; }
  /// The half-life is at most this part of the samples so far; empty: no ramp. Above 0.
  RampUpEMAOptions& ema_rampup(std::optional<double> value) { return ema_rampup_ = value, *this; }
  std::optional<double> ema_rampup() const { return ema_rampup_; }
  /// Samples of an update. At least 1.
  RampUpEMAOptions& batch_size(int64_t value) { return batch_size_ = value, *this; }
  int64_t batch_size() const { return batch_size_; }
  /// The smallest half-life, in samples. Above 0.
  RampUpEMAOptions& eps(double value) { return eps_ = value, *this; }
  double eps() const { return eps_; }

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    const double batch = static_cast<double>(batch_size_);
    double half_life = 1000 * ema_kimg_;
    if (ema_rampup_) {
      const double samples = static_cast<double>(clock.optimizer_steps) * batch;
      half_life = std::min(half_life, samples * *ema_rampup_);
    }
    return -std::expm1(-M_LN2 * batch / std::max(half_life, eps_));
  }
  /// See AverageOptions::lasting_weight().
  double lasting_weight() const {
    return -std::expm1(-M_LN2 * static_cast<double>(batch_size_) / (1000 * ema_kimg_));
  }

  void visit(OptionVisitor& visitor) override {
    visitor.key("ema_kimg", &ema_kimg_, "The half-life, in thousands of samples.", above(0));
    visitor.key("ema_rampup", &ema_rampup_,
                "The half-life is at most this part of the samples so far; null: no ramp.",
                above(0));
    visitor.key("batch_size", &batch_size_, "Samples of an update.", count_from(1));
    visitor.key("eps", &eps_, "The smallest half-life, in samples.", above(0));
    AverageOptions::visit(visitor);
  }

 private:
  double ema_kimg_ = 10;
  std::optional<double> ema_rampup_ = 0.05;
  int64_t batch_size_ = 32;
  double eps_ = 1e-8;
};

}  // namespace polyak
