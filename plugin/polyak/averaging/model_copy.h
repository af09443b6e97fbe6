// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"

namespace polyak {

/// A module that represents a model's average: the same names, in the model's train mode.
struct ModelCopy {
  std::shared_ptr<torch::nn::Module> module;
  std::string why_not_to_run;  // empty: it has a forward pass
};

/// Makes a copy with the factory, or else with clone(). For a model that cannot be cloned, makes a
/// tree of plain modules with its tensors under their names: everything except a forward pass
/// works. The process's random state is kept, although building a module draws its initial weights.
/// @param tensors the model's tensors
/// @param device the device of the copy; empty: where it was made
/// @throws Error if the factory returns no module
ModelCopy copy_model(const ModelRef& model, const std::vector<NamedTensor>& tensors,
                     const std::function<std::shared_ptr<torch::nn::Module>()>& factory,
                     const std::optional<c10::Device>& device);

/// For a model whose layers changed since a copy was made: a clone or the factory may still make
/// the old ones. If the names differ from the model's, takes a tree of plain modules instead.
void use_skeleton_if_outdated(ModelCopy& copy, const std::vector<NamedTensor>& tensors);

}  // namespace polyak
