// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <functional>
#include <optional>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"

// The optimizer of a user's training loop in a checkpoint: in the layout of Python's
// `optimizer.state_dict()` where PyTorch has the class, so that Python and the trainer can load it
// too; else as LibTorch's own archive (optimizer_archive.h), which every class supports.
namespace polyak {

/// The learning rate of the first parameter group; nothing if its options have none.
std::optional<double> learning_rate_of(const torch::optim::Optimizer& optimizer);

/// @param model gives the parameters their names
/// @return tensors of the layout share memory with the optimizer
/// @throws CheckpointError for a class that does not save its state, or cannot
Value save_optimizer(const torch::optim::Optimizer& optimizer, const ModelRef& model);

/// Ensures that a checkpoint's optimizer state belongs to this optimizer: the same class, and the
/// same parameters; of an archive in the same order. Files of 0.1, of the trainer and of Python
/// qualify. Changes nothing.
/// @return loads the state, and logs the numbers (the learning rate first) that differ from the
///   program's. It keeps what it needs of the checkpoint. Throws CheckpointError if an archive does
///   not fit; the optimizer is then unchanged as load_archive() says.
/// @throws CheckpointError
std::function<void()> prepare_optimizer(torch::optim::Optimizer& optimizer, const ModelRef& model,
                                        const Value& checkpoint);

}  // namespace polyak
