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
  int64_t iter = 0;
  int64_t epoch = 0;
  int64_t max_iters = 0;
  int64_t max_epochs = 0;
  int64_t epoch_length = 0;      // iterations in an epoch
  int64_t optimizer_steps = -1;  // steps that the optimizer took; -1: not counted, one an iteration
  int64_t max_optimizer_steps =
      0;                 // steps that a whole run takes: ceil(max_iters / accumulative_counts)
  bool by_epoch = true;  // the loop counts epochs
};

}  // namespace polyak
