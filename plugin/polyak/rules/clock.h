// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polyak {

/// The state of training at an update of an average: what a rule's weight may depend on.
struct Clock {
  Clock() = default;
  /// The clock at call `k` of update_parameters, from 0, if nothing else is known.
  explicit Clock(int64_t k) : updates(k), optimizer_steps(k + 1) {}

  /// Updates since the weights that the average starts with: calls of update_parameters before this
  /// one if the first copies, and one more with `start: initial`.
  int64_t updates = 0;
  int64_t optimizer_steps = 1;  // calls so far, with this one: each follows a step
  int64_t samples = 0;          // seen by the model in those; 0 means unknown
  int64_t batch_size = 0;       // samples of one optimizer step; 0 means unknown
  int64_t run_length = 0;       // updates that the run will make; 0 means unknown
  /// For averages from zero: the part of the weights that real values have, 1 - the product of
  /// 1 - m over all averaging updates so far. Negative means unknown.
  double filled = -1;
};

}  // namespace polyak
