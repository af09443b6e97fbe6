// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/runtime/progress.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

/// The checkpoint that a training run or a test begins with.
struct StartingPoint {
  std::string file;                 // that the config asks for; empty: none
  std::optional<Value> checkpoint;  // read, and not loaded yet
  bool resuming = false;            // the run goes on from it, with its counters
};

/// Reads the checkpoint that `load_from` names, or, with `resume`, the last one of the work_dir.
/// @param training false: `resume` has no effect
/// @throws CheckpointError, also for one that a run cannot go on from
StartingPoint find_start(const Node& config, const TrainConfig& options,
                         const std::string& work_dir, bool training);

/// Whether a training run can go on from a checkpoint.
bool is_resumable(const Value& checkpoint);

/// Makes sure that a checkpoint does not stand behind the run's end.
/// @throws CheckpointError naming the file
void check_place(const StartingPoint& start, const Progress& lengths);

/// Whether a validation may be missing where a run goes on: it may have been ended between a save
/// and the validation that follows.
/// @param progress of the run, as it was restored
/// @param validated whether the last validation stands there
bool may_lack_validation(const Value& checkpoint, const Progress& progress, bool validated);

/// Says in the log what was loaded, and where the run goes on.
void log_start(const StartingPoint& start, const Value& checkpoint, const Progress& progress);

}  // namespace polyak
