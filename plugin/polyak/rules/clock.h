// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace polyak {

/// The state of training at an update of an average: what a rule's weight may depend on.
struct Clock {
  Clock() = default;
  /// The clock at call `k` of update_parameters if nothing else is known.
  explicit Clock(int64_t k) : updates(k), optimizer_steps(k) {}

  int64_t updates = 0;          // calls of update_parameters before this one
  int64_t optimizer_steps = 0;  // of the run before this update; equal to `updates` by default
  int64_t samples = 0;          // seen by the model before this update; 0 means unknown
  int64_t batch_size = 0;       // samples of one optimizer step; 0 means unknown
  int64_t run_length = 0;       // updates that the run will make; 0 means unknown
};

}  // namespace polyak
