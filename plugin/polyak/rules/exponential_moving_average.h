// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/rules/average_options.h"

namespace polyak {

/// Exponential moving average with a constant momentum m: `avg = (1 - m) * avg + m * source`.
/// Source: MMEngine, ExponentialMovingAverage (Polyak and Juditsky 1992 for averaging in general).
struct ExponentialMovingAverageOptions : MomentumOptions<ExponentialMovingAverageOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "ExponentialMovingAverage";
  static constexpr const char* kDoc = "Exponential moving average with a constant momentum.";

  ExponentialMovingAverageOptions() : MomentumOptions(0.0002) {}

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& /*clock*/) const { return momentum(); }
};

}  // namespace polyak
