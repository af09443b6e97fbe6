// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/averaging/average_state.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// Adds an average to a checkpoint, in the layout that EMAHook saves and resumes:
/// `ema_state_dict.NAME` holds the count and the values, `polyak.averages.NAME` the rule, its
/// options and what the values alone would lose. The average without a name, "", exchanges its
/// values with the tensors of `state_dict`, which must hold the raw weights. Other programs then
/// load the average.
///
/// `checkpoint` is a dict, which may be empty unless the name is. Its new entries are handles to
/// the tensors of `state`: write it (write_pth) before the next update.
/// @param count what an update counts, "optimizer_steps" or "iterations"; empty: not stated
/// @throws CheckpointError when the name is empty and there is no `state_dict`
POLYAK_API void save_average(Value& checkpoint, const std::string& name, const AverageState& state,
                             const std::string& count = "");

/// The average of that name in a checkpoint, for AveragedModel::load_state_dict(). Rule and options
/// are empty if another program wrote the file.
/// @throws CheckpointError when it is missing or damaged
POLYAK_API AverageState saved_average(const Value& checkpoint, const std::string& name);

}  // namespace polyak
