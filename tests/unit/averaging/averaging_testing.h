// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/utils.h>

#include "polyak/averaging/model.h"
#include "support/averages.h"
#include "support/tiny_net.h"

namespace polyak::test {

/// Two names for one tensor.
struct Tied : torch::nn::Cloneable<Tied> {
  Tied() { Tied::reset(); }
  void reset() override {
    embedding = register_parameter("embedding", at::zeros({3}));
    output = register_parameter("output", embedding);
  }
  at::Tensor embedding, output;
};

inline void fill(torch::nn::Module& module, double value) {
  torch::NoGradGuard no_grad;
  for (const NamedTensor& item : ModelRef(module).tensors()) item.tensor.fill_(value);
}

}  // namespace polyak::test
