// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/network.h"

// Checks of a model before a run begins.
namespace polyak {

/// Runs the model on one image of a dataset, in eval mode, and restores its mode.
/// @throws ConfigError at `node` if the model does not accept such images
void check_forward(const std::shared_ptr<Algorithm>& model, const ImageShape& shape,
                   c10::Device device, const Node& node);

/// The reason if a training pass over this many samples fails. It runs on a copy, so that
/// statistics, target networks and random numbers do not change.
std::optional<std::string> training_failure(const torch::nn::Module& model, const ImageShape& shape,
                                            c10::Device device, int64_t samples);

/// Checks that a model can be trained on the data: the number of views, labels if it needs them,
/// and no batch of one sample if it cannot train on one.
/// @param max_iters the length of the run
/// @param sync_bn whether BatchNorm sees the batches of all processes
/// @return whether the model cannot train on the last batch of an epoch and training never reaches
/// it; additional passes over the training data must leave it out
/// @throws ConfigError at `node`
POLYAK_API bool check_training_data(const std::shared_ptr<Algorithm>& model, const DataLoader& data,
                                    c10::Device device, int64_t max_iters, const Node& node,
                                    bool sync_bn = false);

/// Checks that all BatchNorm layers of a model can see the batches of all processes.
/// @throws ConfigError at `key` naming one that cannot
void check_sync_bn(const std::shared_ptr<Algorithm>& model, const Node& key);

/// Checks that a state dict fits a model: all of it if `whole`; otherwise part of it, with a
/// warning that names the rest.
/// @throws CheckpointError naming the file
void check_fit(const ModelRef& model, const Value& state_dict, bool whole, const std::string& file);

}  // namespace polyak
