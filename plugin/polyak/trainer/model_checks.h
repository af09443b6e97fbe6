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

// What is tried out of a model before a run begins.
namespace polyak {

/// Runs the model once over an image of a data set, in eval mode; it keeps its mode.
/// @throws ConfigError at `node` when the model does not take such images
void check_forward(const std::shared_ptr<Algorithm>& model, const ImageShape& shape,
                   c10::Device device, const Node& node);

/// Why a training pass over so many samples fails, if it does. It runs on a copy, so that neither
/// statistics, target networks nor random numbers notice.
std::optional<std::string> training_failure(const torch::nn::Module& model, const ImageShape& shape,
                                            c10::Device device, int64_t samples);

/// Makes sure that a model can be trained on data: as many views, labels where it learns from them,
/// and no batch of one sample that it cannot take.
/// @param max_iters of the run
/// @return whether the last batch of an epoch is one that it cannot take, and training does not
/// come
///   to it; passes beside training must leave it out
/// @throws ConfigError at `node`
POLYAK_API bool check_training_data(const std::shared_ptr<Algorithm>& model, const DataLoader& data,
                                    c10::Device device, int64_t max_iters, const Node& node);

/// Makes sure that a state dict fits a model: all of it where `whole`, else some of it, with a
/// warning that names the rest.
/// @throws CheckpointError naming the file
void check_fit(const ModelRef& model, const Value& state_dict, bool whole, const std::string& file);

}  // namespace polyak
