// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/runtime/progress.h"
#include "polyak/runtime/tensor_names.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

/// The checkpoint that a training run or a test starts from.
struct StartingPoint {
  std::string file;                 // from the config; empty: none
  std::optional<Value> checkpoint;  // read, but not loaded yet
  NameRules names;                  // changes of the tensors' names
  bool resuming = false;            // the run is resumed from it, with its counters
};

/// Reads the checkpoint of `load_from` or, with `resume`, by default the last one in work_dir.
/// @param training false: `resume` has no effect
/// @throws CheckpointError, also if a run cannot be resumed from it
StartingPoint find_start(const Node& config, const TrainConfig& options,
                         const std::string& work_dir, bool training);

/// Whether a training run can be resumed from a checkpoint.
bool is_resumable(const Value& checkpoint);

/// Checks that a checkpoint is not beyond the end of the run.
/// @throws CheckpointError naming the file
void check_place(const StartingPoint& start, const Progress& lengths);

/// Whether a validation may be missing in a resumed run: the previous run may have ended between a
/// save and the validation after it.
/// @param progress the restored progress of the run
/// @param validated whether the last validation was at that position
bool may_lack_validation(const Value& checkpoint, const Progress& progress, bool validated);

/// Logs what was loaded, and where the run resumes.
void log_start(const StartingPoint& start, const Value& checkpoint, const Progress& progress);

}  // namespace polyak
