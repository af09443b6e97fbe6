// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

// The layout of Python's `optimizer.state_dict()`: {state: {index: {...}}, param_groups: [{...,
// params: [index, ...], param_names: [...]}]}, where indices count the parameters, group by group.
namespace polyak {

/// A group of an optimizer, for state_dict_of().
struct SavedGroup {
  Value numbers;                   // lr, momentum, ...
  std::vector<Value> states;       // of each parameter; an empty dict before its first step
  std::vector<std::string> names;  // of each parameter; empty: unknown
};
/// The state dict of these groups.
POLYAK_API Value state_dict_of(std::vector<SavedGroup> groups);

/// An optimizer that a saved state is for, and what to say where it does not fit.
struct StateOwner {
  std::string type;                // its name; "": unknown
  std::vector<Value> groups;       // its own `param_groups`
  std::vector<std::string> names;  // of all parameters, group by group; empty: unknown
  /// The keys that the state of an updated parameter must have, in a group with these numbers.
  std::function<std::vector<std::string>(const Value& group)> state_names;

  bool own_numbers = false;  // the saved groups' numbers will not be used
  /// Whether a saved group may become several. A host whose groups come from the program says no:
  /// the groups' numbers differ on purpose, and the file has only one set of them.
  bool may_split = true;

  std::string owner = "model";  // whose parameters they are
  std::string regroup;          // what to do about other groups: "set paramwise_cfg as it was"
  std::string renumber;         // what to do about numbers that differ in one group
  std::string one_rate;         // what to do about several learning rates; "": they are allowed
  std::string without_state;    // how to continue without the state: "load only the weights"
};

/// A saved state in the order and the groups of its owner.
struct MatchedState {
  Value state;  // a state dict
  /// No parameter has a state, though one that was updated would.
  bool lacks_state = false;
};

/// Brings a checkpoint's `optimizer` into the order and the groups of its owner. Parameters are
/// matched by name: by `param_names`, otherwise, if the groups are unambiguous, by the order of the
/// checkpoint's own `state_dict`, in which Python's optimizers number them. If neither works, they
/// are matched by position.
/// @throws CheckpointError for names that the owner does not have, state of an unknown parameter or
/// of another optimizer, numbers that differ within one of the owner's groups, and missing state
POLYAK_API MatchedState match_state(const StateOwner& owner, const Value& checkpoint);

/// @param indices the parameters' keys in `state`
/// @param names of the parameters; empty: unknown
/// @throws CheckpointError for a tensor of another shape than its parameter's
POLYAK_API void check_shapes(const Value& state, const std::vector<Value>& indices,
                             const std::vector<at::Tensor>& parameters,
                             const std::vector<std::string>& names);

}  // namespace polyak
