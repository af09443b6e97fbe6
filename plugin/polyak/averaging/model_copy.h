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

/// A module that stands for a model's average: the same names, in the model's train mode.
struct ModelCopy {
  std::shared_ptr<torch::nn::Module> module;
  std::string why_not_to_run;  // empty: it has a forward pass
};

/// Makes one by the factory, or else by clone(). A model that cannot be cloned gets a tree of plain
/// modules with its tensors under their names: all but a forward pass works. The process's random
/// state stays as it was, though building a module draws its initial weights.
/// @param tensors the model's
/// @param device where it goes; none: where it was made
/// @throws Error when the factory gives no module
ModelCopy copy_model(const ModelRef& model, const std::vector<NamedTensor>& tensors,
                     const std::function<std::shared_ptr<torch::nn::Module>()>& factory,
                     const std::optional<c10::Device>& device);

}  // namespace polyak
