// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

// How the names of a file's tensors become those of a model.
namespace polyak {

/// The longest prefix `a.b.` of all these names; "" for none.
POLYAK_API std::string common_prefix(const std::vector<std::string>& names);

/// Changes of names that a user asks for, in this order.
struct NameRules {
  std::vector<std::string> strip;  // the first that a name begins with is removed
  std::vector<std::pair<std::string, std::string>> map;  // the first beginning that fits, replaced
  std::vector<std::string> exclude;  // patterns (`head.*`) of names, old or new: left out

  bool empty() const { return strip.empty() && map.empty() && exclude.empty(); }
};

/// Applies rules to the tensors of a state dict.
/// @throws CheckpointError for a rule that changes nothing, with the names there are; and if two
///   tensors get one name
POLYAK_API void apply_name_rules(Value& state_dict, const NameRules& rules);

/// Removes the parts that PyTorch's wrappers of modules add anywhere in names (`_orig_mod.` of
/// torch.compile, `_fsdp_wrapped_module.`, `_checkpoint_wrapped_module.`) from a dict's names, and
/// logs that.
/// @throws CheckpointError if two tensors get one name
void remove_wrapper_names(Value& dict);

/// Gives a state dict's tensors the names that the model has, and logs what it changed. Unless some
/// names fit as they are, wrappers' names are removed, and the prefix that makes the most names fit
/// is removed (`module.`, `model.`), added (`backbone.`), or replaced by another. The counter of an
/// average (`n_averaged`) is left out.
/// @throws CheckpointError for a key that is not a str, for one tensor with two names (`x` and
///   `module.x`), for a prefix that only some have, and if several prefixes fit equally well
POLYAK_API void match_names(Value& state_dict, const ModelRef& model);

}  // namespace polyak
