#include "polyak/hooks/iter_timer_hook.h"

#include "polyak/runtime/runner.h"

namespace polyak {

void IterTimerHook::before_iter(Runner& runner, Stage /*stage*/, int64_t /*batch*/) {
  runner.log("data_time", seconds());
}

void IterTimerHook::after_iter(Runner& runner, Stage /*stage*/, int64_t /*batch*/) {
  runner.log("time", seconds());
  last_ = Clock::now();
}

}  // namespace polyak
