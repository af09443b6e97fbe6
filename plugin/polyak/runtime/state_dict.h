// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

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

/// Compares them, and refuses a state dict of which nothing fits, whose numbers are of another kind
/// (float for int), or, with `whole`, that does not fit completely.
/// @throws CheckpointError
POLYAK_API StateDifference check_state_dict(const ModelRef& model, const Value& state_dict,
                                            bool whole);

/// Copies the tensors that fit into the model.
POLYAK_API void load_state_dict(const ModelRef& model, const Value& state_dict);

/// "[2, 3]".
POLYAK_API std::string shape_text(const at::Tensor& tensor);

/// Whether values of one dtype can be stored in the other, apart from rounding: both floating, both
/// complex, both integers, or both bool.
bool same_numbers(at::ScalarType a, at::ScalarType b);

}  // namespace polyak
