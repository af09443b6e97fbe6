// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/serialize/archive.h>

namespace polyak {

/// Copies an archive's tensors into the module's tensors of the same names, which keep their
/// dtypes. (LibTorch's own load() reads numbers of another dtype as if they were of the module's.)
/// @throws Error, before anything is copied, if a shape or a parameter's kind of numbers differs
void load_module(torch::serialize::InputArchive& archive, torch::nn::Module& module);

}  // namespace polyak
