// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"

// The optimizer of a user's training loop in a checkpoint as LibTorch's own archive, as bytes: for
// the classes that PyTorch does not have, and for files of 0.1, which have every class in this
// form. The class, the learning rates and the parameters' names are stored next to it.
namespace polyak {

/// Its class, as the program names it: "torch::optim::LBFGS".
std::string type_of(const torch::optim::Optimizer& optimizer);

/// @param names of the parameters, in the optimizer's order; "" for those outside the model
/// @throws CheckpointError for a class that does not save its state, or cannot
Value save_archive(const torch::optim::Optimizer& optimizer, const std::vector<std::string>& names);

/// Whether an entry `optimizer` has this form.
bool is_archive(const Value& state);

/// Ensures that a state belongs to this optimizer: the same class, and the same parameters in the
/// same order (files of 0.1 have no names).
/// @throws CheckpointError
void check_archive(const torch::optim::Optimizer& optimizer, const std::vector<std::string>& names,
                   const Value& state);

/// Loads a checked state.
/// @throws CheckpointError if it does not fit. The optimizer is then unchanged, except for what a
///   program's own class keeps besides LibTorch's states and options.
void load_archive(torch::optim::Optimizer& optimizer, const Value& state);

}  // namespace polyak
