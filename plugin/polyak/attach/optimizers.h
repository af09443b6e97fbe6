// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/attach/tensor_names.h"

// What can be asked of a program's optimizer and its parameters.
namespace polyak {

/// Group by group.
std::vector<WeakTensor> parameters_of(const torch::optim::Optimizer& optimizer);
/// How many of them each group has.
std::vector<size_t> group_sizes_of(const torch::optim::Optimizer& optimizer);
/// Parameters of groups of some sizes, laid out for other sizes, each in its group and place; where
/// there was none, one that is gone.
std::vector<WeakTensor> in_same_places(const std::vector<WeakTensor>& parameters,
                                       const std::vector<size_t>& sizes,
                                       const std::vector<size_t>& other_sizes);
bool has_parameters(const torch::optim::Optimizer& optimizer, const std::vector<WeakTensor>& known);
/// Whether its parameters are these, and maybe more after them.
bool begins_with(const torch::optim::Optimizer& optimizer, const std::vector<WeakTensor>& known);

std::vector<at::Tensor> alive(const std::vector<WeakTensor>& tensors);
/// It grows with each change of one of them.
int64_t sum_of_versions(const std::vector<at::Tensor>& tensors);

/// Whether step() is one of those that are intercepted, not one of a class that derives.
bool is_libtorchs(const torch::optim::Optimizer& optimizer);
/// "Adam", "mine::Adam".
std::string class_of(const torch::optim::Optimizer& optimizer);

}  // namespace polyak
