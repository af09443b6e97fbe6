// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/SmallVector.h>

#include "polyak/averaging/plan.h"

namespace polyak {

/// One update of several averages over one model, so that the model's weights are read from memory
/// once: chunk by chunk for all on the CPU, and in one launch on a GPU. Made for each update;
/// allocates nothing for up to 8.
class JointUpdate {
 public:
  /// The part of one average.
  struct Share {
    Plan* plan;  // lives until the update is made
    double weight;
    bool averages;  // and copies the integers that go with it
    bool copies;    // the buffers that are not averaged
  };

  JointUpdate() = default;
  explicit JointUpdate(const Share& share) { add(share); }
  /// Also those with nothing to do this time are to be added, since GPUs need other tables for
  /// other averages.
  void add(const Share& share) { shares_.push_back(share); }

  /// Makes tables on GPUs for these averages together, unless the last ones were for the same.
  /// Comes before any run.
  /// @throws Error where a GPU lacks the memory, or this build code for it
  void place_on_gpus() const;
  /// Does what the shares say.
  void run() const;

  // The parts of run() that our kernels do, for who brings weights to the host first.
  /// On the CPU.
  void run_kernels() const;
  /// On GPUs.
  void run_on_gpus() const;

 private:
  c10::SmallVector<Share, 8> shares_;
};

}  // namespace polyak
