// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"

// Which optimizer a state dict of Python's layout is of.
namespace polyak {

/// The `param_groups` of a state dict, at least one.
/// @throws CheckpointError for a value that is no state dict
const std::vector<Value>& groups_of(const Value& saved);

/// The type of a saved optimizer according to its groups: SGD, LARS, Adam, AdamW, "Adam or AdamW"
/// (files of torch before 2.7 and of Polyak 0.1 do not distinguish them), RMSprop, Adagrad, or
/// "another optimizer".
/// @throws CheckpointError for a value that is no state dict
std::string type_of_groups(const Value& saved);
/// Whether a type of type_of_groups() is none that `polyak train` has.
POLYAK_API bool is_foreign_type(const std::string& type);

/// The config that a checkpoint was trained with; null if there is none that can be read:
/// MMEngine's are Python.
POLYAK_API Node config_of(const Value& checkpoint);
/// optim_wrapper.optimizer.type of a config, or "".
POLYAK_API std::string optimizer_type(const Node& config);
/// The type of a checkpoint's optimizer, according to its groups or else to its config, which may
/// be MMEngine's.
/// @throws CheckpointError for a value that is no state dict
POLYAK_API std::string saved_type(const Value& checkpoint);
}  // namespace polyak
