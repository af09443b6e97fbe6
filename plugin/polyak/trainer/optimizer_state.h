// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/trainer/optimizer.h"

namespace polyak {

/// What the groups of a saved optimizer say of its type: SGD, LARS, Adam, AdamW, "Adam or AdamW"
/// (before torch 2.7, and Polyak 0.1, the file does not tell), or "another optimizer".
std::string type_of_groups(const Value& saved);

/// A checkpoint's optimizer in the order and the groups of this one. Parameters are matched by
/// name: by `param_names`, else, where groups leave no doubt, by the order of the checkpoint's own
/// `state_dict`, in which Python's optimizers number them; by place where neither tells.
/// @param own_numbers the groups' numbers (lr, weight_decay, ...) will not be used
/// @throws CheckpointError for names that are not the optimizer's, a state that belongs to no
/// parameter or is another optimizer's, numbers that differ within one of the optimizer's groups,
/// and a missing state
Value match_optimizer_state(const Optimizer& optimizer, const Value& checkpoint, bool own_numbers);

}  // namespace polyak
