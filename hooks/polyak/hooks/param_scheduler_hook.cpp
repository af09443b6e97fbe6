// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/param_scheduler_hook.h"

#include "polyak/runtime/runner.h"

namespace polyak {

void ParamSchedulerHook::check_run(Runner& runner) {
  if (!runner.has_schedulers()) {
    fail<ConfigError>("ParamSchedulerHook: the loop steps its schedules itself; remove the hook");
  }
}

void ParamSchedulerHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                          const Scalars& /*outputs*/) {
  runner.step_schedulers(/*by_epoch=*/false);
}

void ParamSchedulerHook::after_train_epoch(Runner& runner) {
  runner.step_schedulers(/*by_epoch=*/true);
}

}  // namespace polyak
