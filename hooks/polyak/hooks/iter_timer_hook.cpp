// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/iter_timer_hook.h"

#include "polyak/runtime/runner.h"

namespace polyak {

double IterTimerHook::seconds() const {
  return std::chrono::duration<double>(Clock::now() - *last_).count();
}

void IterTimerHook::before_epoch(Runner& runner, Stage stage) {
  if (stage != Stage::train) {
    train_ = last_;
    evaluation_ = Clock::now();
  }
  last_.reset();
  if (!runner.began_unseen()) last_ = Clock::now();
}

void IterTimerHook::after_epoch(Runner& /*runner*/, Stage stage) {
  if (stage == Stage::train) return;
  last_.reset();  // evaluations inside an epoch do not count
  if (train_) last_ = *train_ + (Clock::now() - evaluation_);
}

void IterTimerHook::before_iter(Runner& runner, Stage /*stage*/, int64_t /*batch*/) {
  if (!last_ && !runner.began_unseen()) {
    last_ = Clock::now();  // the wait for the epoch's first batch is unknown
  } else if (last_ && !runner.began_unseen()) {
    runner.log("data_time", seconds());
  }
}

void IterTimerHook::after_iter(Runner& runner, Stage /*stage*/, int64_t /*batch*/) {
  if (last_) runner.log("time", seconds());
  last_ = Clock::now();
}

}  // namespace polyak
