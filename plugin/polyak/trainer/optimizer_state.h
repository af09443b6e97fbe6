// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/trainer/optimizer.h"

namespace polyak {

/// The type of a saved optimizer according to its groups: SGD, LARS, Adam, AdamW, "Adam or AdamW"
/// (files of torch before 2.7 and of Polyak 0.1 do not distinguish them), or "another optimizer".
std::string type_of_groups(const Value& saved);

/// A checkpoint's optimizer state in the order and the groups of this optimizer. Parameters are
/// matched by name: by `param_names`, otherwise, if the groups are unambiguous, by the order of the
/// checkpoint's own `state_dict`, in which Python's optimizers number them. If neither works, they
/// are matched by position.
/// @param own_numbers the groups' numbers (lr, weight_decay, ...) will not be used
/// @throws CheckpointError for names that the optimizer does not have, state of an unknown
/// parameter or of another optimizer, numbers that differ within one of the optimizer's groups, and
/// missing state
Value match_optimizer_state(const Optimizer& optimizer, const Value& checkpoint, bool own_numbers);

}  // namespace polyak
