// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"

namespace polyak::cli {

/// How the tensors of two state dicts differ.
struct FileDifference {
  struct Tensor {
    std::string name;
    double largest = 0;   // |a - b|; NaN where only one of them is NaN
    double relative = 0;  // |a - b| / |a|, as norms; of 0 and 0: 0
    bool equal = false;   // every bit
    std::string dtypes;   // "float32, bfloat16" if they differ
  };
  std::vector<Tensor> common;
  std::vector<std::string> missing;      // in the second
  std::vector<std::string> extra;        // only in the second
  std::vector<std::string> other_shape;  // "name ([2] and [3])"
};

/// Compares the tensors of two state dicts by their names, without prefixes such as `module.` that
/// all names of one of them have.
FileDifference compare(const Value& a, const Value& b);

/// A line for each tensor that differs, the largest difference first, and a sentence at the end.
std::string difference_text(const FileDifference& difference);

nlohmann::ordered_json difference_json(const FileDifference& difference);

}  // namespace polyak::cli
