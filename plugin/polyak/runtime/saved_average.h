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
/// values with the tensors of `state_dict`, which must hold the raw weights: plain loaders then get
/// the average.
///
/// `checkpoint` is a dict; an empty one will do for averages that have names. Its entries are
/// handles to the tensors of `state`, so write it (write_pth) before the next update.
/// @param count what an update counts, "optimizer_steps" or "iterations"; empty: not stated
/// @throws CheckpointError when the name is empty and there is no `state_dict`
POLYAK_API void save_average(Value& checkpoint, const std::string& name, const AverageState& state,
                             const std::string& count = "");

/// The average of that name in a checkpoint that was read, ready for
/// AveragedModel::load_state_dict(). In another program's file it has no rule and no options.
/// @throws CheckpointError when it is missing or damaged
POLYAK_API AverageState saved_average(const Value& checkpoint, const std::string& name);

}  // namespace polyak
