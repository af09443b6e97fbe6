// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace polyak {

/// Named numbers in alphabetical order: metrics of a validation pass, losses of an iteration.
using Scalars = std::map<std::string, double>;

/// How far a run is. Counters count finished iterations and epochs: during after_train_iter,
/// `iter`, and during after_train_epoch, `epoch` are still the number, from 0, of the one that just
/// ran. A length (max_*, epoch_length) of 0 means unknown.
struct Progress {
  int64_t iter = 0;              // finished iterations
  int64_t epoch = 0;             // finished epochs
  int64_t max_iters = 0;         // iterations in the run
  int64_t max_epochs = 0;        // epochs in the run
  int64_t epoch_length = 0;      // iterations in an epoch
  int64_t optimizer_steps = -1;  // finished steps; -1: not counted, one per iteration
  /// Steps that a whole run takes: ceil(max_iters / accumulative_counts).
  int64_t max_optimizer_steps = 0;
  bool by_epoch = true;             // the loop counts epochs
  int64_t accumulative_counts = 1;  // iterations whose gradients make one step
  int64_t batch_size = 0;           // samples of an iteration; 0: unknown

  /// Optimizer steps in the run's first `iters` iterations. Gradients that are left at the end of
  /// the run make one more step.
  int64_t steps_in(int64_t iters) const {
    const bool at_end = max_iters > 0 && iters >= max_iters;
    return (iters + (at_end ? accumulative_counts - 1 : 0)) / accumulative_counts;
  }
};

}  // namespace polyak
