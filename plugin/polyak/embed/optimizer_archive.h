// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <optional>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"

// The optimizer of a loop of one's own in a checkpoint: LibTorch's own archive, as bytes, since
// that holds every kind. Beside it stand the class, the learning rates and the parameters' names.
namespace polyak {

/// The learning rate of the first parameter group; nothing where its options know none.
std::optional<double> learning_rate_of(const torch::optim::Optimizer& optimizer);

/// @param model gives the parameters their names
/// @throws CheckpointError for a class that saves nothing of its state, or cannot
Value save_optimizer(const torch::optim::Optimizer& optimizer, const ModelRef& model);

/// Makes sure that a state is one of this optimizer: of the same class, over the same parameters in
/// the same order (files of 0.1 name none).
/// @param state may be null: a checkpoint without one
/// @throws CheckpointError
void check_optimizer(const torch::optim::Optimizer& optimizer, const ModelRef& model,
                     const Value* state);

/// Loads a state that was checked; a line in the log says where another learning rate goes on.
/// @throws CheckpointError when it does not fit. The optimizer is as before then, but for what a
///   class of the program's own keeps beside LibTorch's states and options.
void load_optimizer(torch::optim::Optimizer& optimizer, const Value& state);

}  // namespace polyak
