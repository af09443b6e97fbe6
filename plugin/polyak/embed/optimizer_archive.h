// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <optional>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"

// The optimizer of a user's training loop in a checkpoint: LibTorch's own archive, as bytes,
// because that supports every optimizer. The class, the learning rates and the parameters' names
// are stored next to it.
namespace polyak {

/// The learning rate of the first parameter group; nothing if its options have none.
std::optional<double> learning_rate_of(const torch::optim::Optimizer& optimizer);

/// @param model gives the parameters their names
/// @throws CheckpointError for a class that does not save its state, or cannot
Value save_optimizer(const torch::optim::Optimizer& optimizer, const ModelRef& model);

/// Ensures that a state belongs to this optimizer: the same class, and the same parameters in the
/// same order (files of 0.1 have no names).
/// @param state may be null: a checkpoint without an optimizer
/// @throws CheckpointError
void check_optimizer(const torch::optim::Optimizer& optimizer, const ModelRef& model,
                     const Value* state);

/// Loads a checked state. Logs the learning rate if it differs from the program's.
/// @throws CheckpointError if it does not fit. The optimizer is then unchanged, except for what a
///   program's own class keeps besides LibTorch's states and options.
void load_optimizer(torch::optim::Optimizer& optimizer, const Value& state);

}  // namespace polyak
