// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/rules/average_options.h"

namespace polyak {

/// The plain mean of the weights at calls 0, interval, 2 * interval, ...: the weight at call k is
/// `1 / (k / interval + 1)` with integer division. Re-estimate BatchNorm statistics before using it
/// (PreciseBNHook).
/// Source: Izmailov et al. 2018, arXiv:1803.05407; MMEngine, StochasticWeightAverage.
struct StochasticWeightAverageOptions : AverageOptions<StochasticWeightAverageOptions> {
  /// The name in configs, and the text that `polyak describe` prints.
  static constexpr const char* kName = "StochasticWeightAverage";
  static constexpr const char* kDoc =
      "Mean of all weights so far (SWA); a model with BatchNorm also needs PreciseBNHook.";

  /// The weight of the new value at an update, in [0, 1].
  double weight(const Clock& clock) const {
    const int64_t snapshots = clock.updates / interval() + 1;
    return 1.0 / static_cast<double>(snapshots);
  }
};

}  // namespace polyak
