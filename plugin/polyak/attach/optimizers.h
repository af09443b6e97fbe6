// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "polyak/attach/tensor_names.h"

// Queries about a program's optimizers and their parameters.
namespace polyak {

/// The parameters of all groups, in order.
std::vector<WeakTensor> parameters_of(const torch::optim::Optimizer& optimizer);
/// The number of parameters of each group.
std::vector<size_t> group_sizes_of(const torch::optim::Optimizer& optimizer);
/// Rearranges the parameters of groups for other group sizes: each stays in its group and position.
/// Positions without a parameter get an expired one.
std::vector<WeakTensor> in_same_places(const std::vector<WeakTensor>& parameters,
                                       const std::vector<size_t>& sizes,
                                       const std::vector<size_t>& other_sizes);
/// Whether its parameters are exactly these.
bool has_parameters(const torch::optim::Optimizer& optimizer, const std::vector<WeakTensor>& known);
/// Whether its parameters start with these.
bool begins_with(const torch::optim::Optimizer& optimizer, const std::vector<WeakTensor>& known);

/// The tensors that have not expired.
std::vector<at::Tensor> alive(const std::vector<WeakTensor>& tensors);
/// Increases with each change of one of the tensors.
int64_t sum_of_versions(const std::vector<at::Tensor>& tensors);

/// Whether it is exactly one of LibTorch's classes, whose step() is intercepted.
bool is_libtorchs(const torch::optim::Optimizer& optimizer);
/// The name of its class: "Adam", "mine::Adam".
std::string class_of(const torch::optim::Optimizer& optimizer);

}  // namespace polyak
