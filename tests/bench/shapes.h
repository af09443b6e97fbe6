// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <string>
#include <vector>

namespace polyak::bench {

using Shapes = std::vector<std::vector<int64_t>>;

/// The names that shapes_of() takes, in the order of the tables.
const std::vector<std::string>& shape_names();
/// The parameters of a model by its name. `shrink` divides the first dimension of each tensor, or
/// the number of tensors where that is the point, to try a benchmark out.
Shapes shapes_of(const std::string& name, int64_t shrink = 1);

/// A model that is nothing but parameters.
class Parameters : public torch::nn::Module {
 public:
  explicit Parameters(const std::vector<at::Tensor>& tensors);
  /// Of these shapes, with random values.
  Parameters(const Shapes& shapes, at::ScalarType dtype);
  /// The parameters' values, without gradients.
  const std::vector<at::Tensor>& values() const { return values_; }
  int64_t numel() const;

 private:
  std::vector<at::Tensor> values_;
};

}  // namespace polyak::bench
