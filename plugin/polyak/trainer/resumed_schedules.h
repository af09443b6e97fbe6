// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/trainer/param_scheduler.h"

namespace polyak {

/// A checkpoint's `param_schedulers` in the order of these schedulers. They are matched by kind,
/// which follows from the settings in the state (0.1 wrote none), by the parameter that they
/// change, by_epoch and begin. If `end` or settings differ, the config's are used, and a log line
/// names them.
/// @throws CheckpointError if a scheduler has no state or a state has no scheduler
std::vector<Value> match_schedules(const std::vector<std::shared_ptr<ParamScheduler>>& schedulers,
                                   const Value& saved);

}  // namespace polyak
