// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/param_scheduler_hook.h"

#include "polyak/runtime/runner.h"

namespace polyak {

void ParamSchedulerHook::check_run(Runner& runner) {
  if (runner.training() && !runner.schedules()) {
    fail<ConfigError>("ParamSchedulerHook: the loop steps its schedules itself; remove the hook");
  }
}

void ParamSchedulerHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                          const Scalars& /*outputs*/) {
  if (Schedules* schedules = runner.schedules()) schedules->step_schedules(/*by_epoch=*/false);
}

void ParamSchedulerHook::after_train_epoch(Runner& runner) {
  if (Schedules* schedules = runner.schedules()) schedules->step_schedules(/*by_epoch=*/true);
}

}  // namespace polyak
