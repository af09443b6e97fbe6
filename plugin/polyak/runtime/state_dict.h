// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// Names for a message: the first few, and the number of the others.
POLYAK_API std::string list_names(const std::vector<std::string>& names, size_t shown = 8);

/// The longest prefix `a.b.` of all these names; "" for none.
POLYAK_API std::string common_prefix(const std::vector<std::string>& names);

/// Gives a state dict's tensors the names that the model has. Removes a prefix that all of them
/// share (`module.`, `model.`), and logs that, if the names fit only without it.
/// @throws CheckpointError for a key that is not a str, for one tensor with two names (`x` and
///   `module.x`), for a prefix that only some have, and if more than one prefix fits
void match_names(Value& state_dict, const ModelRef& model);

/// How a state dict differs from a model.
struct POLYAK_API StateDifference {
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> mismatched;     // of another shape
  std::vector<std::string> other_numbers;  // float for int, real for complex, ...
  size_t fitting = 0;

  bool empty() const {
    return missing.empty() && unexpected.empty() && mismatched.empty() && other_numbers.empty();
  }
  /// One line that lists them, for a message.
  std::string text() const;
};
POLYAK_API StateDifference compare_state_dict(const ModelRef& model, const Value& state_dict);

/// Copies the tensors that fit into the model.
POLYAK_API void load_state_dict(const ModelRef& model, const Value& state_dict);

/// "[2, 3]".
POLYAK_API std::string shape_text(const at::Tensor& tensor);

/// Whether values of one dtype can be stored in the other, apart from rounding: both floating, both
/// complex, both integers, or both bool.
bool same_numbers(at::ScalarType a, at::ScalarType b);

}  // namespace polyak
