// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/SmallVector.h>

#include "polyak/averaging/plan.h"

namespace polyak {

/// One update of several averages over one model that reads the model's weights from memory once:
/// chunk by chunk for all averages on the CPU, and in one launch on a GPU. Made for each update;
/// does not allocate for up to 8 averages.
class JointUpdate {
 public:
  /// The part of one average.
  struct Share {
    Plan* plan;  // must live until the update is done
    double weight;
    bool averages;  // and copies the integers that go with it
    bool copies;    // the buffers that are not averaged
  };

  JointUpdate() = default;
  explicit JointUpdate(const Share& share) { add(share); }
  /// Add averages that have nothing to do this time as well, since GPUs need other tables for other
  /// averages.
  void add(const Share& share) { shares_.push_back(share); }

  /// Makes GPU tables for these averages together, unless the last ones were for the same averages.
  /// Call it before any run.
  /// @throws Error if a GPU lacks memory, or this build has no code for it
  void place_on_gpus() const;
  /// Does what the shares say.
  void run() const;

  // The parts of run() that our kernels do, for callers that copy weights to the host first.
  /// On the CPU.
  void run_kernels() const;
  /// On GPUs.
  void run_on_gpus() const;

 private:
  c10::SmallVector<Share, 8> shares_;
};

}  // namespace polyak
