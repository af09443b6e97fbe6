// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average with a constant momentum m: `avg = (1 - m) * avg + m * source`.
/// Source: MMEngine, ExponentialMovingAverage (Polyak and Juditsky 1992 for averaging as such).
struct ExponentialMovingAverageOptions : MomentumOptions<ExponentialMovingAverageOptions> {
  /// The name in configs and the sentence of `polyak describe`.
  static constexpr const char* kName = "ExponentialMovingAverage";
  static constexpr const char* kDoc = "Exponential moving average with a constant momentum.";

  ExponentialMovingAverageOptions() : MomentumOptions(0.0002) {}

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& /*clock*/) const { return momentum(); }
};

}  // namespace polyak
