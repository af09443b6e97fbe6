// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace polyak {

/// Named numbers in alphabetical order: metrics of a validation pass, losses of an iteration.
using Scalars = std::map<std::string, double>;

/// How far a run is. Counters count what is finished; during after_train_iter `iter` and during
/// after_train_epoch `epoch` are still those of the iteration and epoch that just ran, counted from
/// 0. A length of 0 (max_*, epoch_length) is one that nobody stated.
struct Progress {
  int64_t iter = 0;              // finished iterations
  int64_t epoch = 0;             // finished epochs
  int64_t max_iters = 0;         // iterations in the run
  int64_t max_epochs = 0;        // epochs in the run
  int64_t epoch_length = 0;      // iterations in an epoch
  int64_t optimizer_steps = -1;  // steps that the optimizer took; -1: not counted, one an iteration
  /// Steps that a whole run takes: ceil(max_iters / accumulative_counts).
  int64_t max_optimizer_steps = 0;
  bool by_epoch = true;             // the loop counts epochs
  int64_t accumulative_counts = 1;  // iterations whose gradients make one step

  /// Optimizer steps that the run's first `iters` iterations make. What is left of the gradients at
  /// the end of the run makes one more.
  int64_t steps_in(int64_t iters) const {
    const bool at_end = max_iters > 0 && iters >= max_iters;
    return (iters + (at_end ? accumulative_counts - 1 : 0)) / accumulative_counts;
  }
};

}  // namespace polyak
