// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

// Where weights lie in a file of any library.
namespace polyak {

/// The key path of the weights that a file is loaded for: `state_dict`, or where other libraries
/// keep them, such as `model`; "" if the file itself is a state dict. Raw weights come before
/// averaged ones.
/// @param file a dict
/// @throws CheckpointError if there are none, or several and none has a known name
POLYAK_API std::string find_weights(const Value& file);

/// The key paths of all state dicts in a file, to three levels: dicts with tensors under names.
POLYAK_API std::vector<std::string> all_weights(const Value& file);

/// Which weights of the same model a file holds, for checkpoint_with_kind(): `raw`, `averaged` and
/// the names of Polyak's averages. One of them, or none, if there is nothing to choose.
POLYAK_API std::vector<std::string> weight_kinds(const Value& file);

/// Moves the weights under a key path into the entry `state_dict`, which a checkpoint has. With "",
/// the file becomes the entry `state_dict` of an otherwise empty checkpoint.
/// @throws CheckpointError if there is no state dict at `key`, with those there are
POLYAK_API Value checkpoint_with_weights(Value file, const std::string& key);

/// The same for weights by their kind: `raw`, `averaged`, or the name of one of Polyak's averages.
/// @throws CheckpointError if the file does not hold them, with what it holds
POLYAK_API Value checkpoint_with_kind(Value file, const std::string& kind);

}  // namespace polyak
