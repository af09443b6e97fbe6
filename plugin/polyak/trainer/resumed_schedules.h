// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/trainer/param_scheduler.h"

namespace polyak {

/// A checkpoint's `param_schedulers` in the order of these schedulers. Each is matched by its kind,
/// which the settings in its state tell (0.1 wrote none), the parameter that it changes, by_epoch
/// and begin. Where `end` or settings differ, a line in the log says which, since the config's go
/// on.
/// @throws CheckpointError where a scheduler has no state or a state no scheduler
std::vector<Value> match_schedules(const std::vector<std::shared_ptr<ParamScheduler>>& schedulers,
                                   const Value& saved);

}  // namespace polyak
