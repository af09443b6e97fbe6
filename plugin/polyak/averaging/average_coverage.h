// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/rules/tensor_mode.h"

namespace polyak {

/// What an average does with each tensor of a model.
struct POLYAK_API AverageCoverage {
  /// One distinct tensor.
  struct Tensor {
    std::string name;                       // the first one, when it has several
    bool buffer = false;                    // else a parameter
    TensorMode mode = TensorMode::average;  // of an integer: copied when others are averaged
    bool shared = false;                    // TensorMode::share without a copy of its own
    int64_t numbers = 0;                    // its elements
    int64_t bytes = 0;                      // that the average takes for it
    int64_t bytes_of_model = 0;             // that the model takes for it
  };
  /// The sum over tensors.
  struct Sum {
    int64_t tensors = 0;         // how many
    int64_t numbers = 0;         // elements of them
    int64_t bytes = 0;           // that the average takes for them
    int64_t bytes_of_model = 0;  // that the model takes for them
  };

  std::vector<Tensor> tensors;  // in the model's order

  /// Of the tensors with this mode.
  Sum sum(TensorMode mode) const;
  /// Of all.
  Sum sum() const;
  /// A line for each mode that occurs: how many tensors and bytes, and some names.
  std::vector<std::string> lines() const;
};

}  // namespace polyak
