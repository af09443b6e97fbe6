// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <filesystem>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/config/load.h"
#include "polyak/embed/loop_hooks.h"
#include "support/averages.h"
#include "support/own_folder.h"

namespace polyak::test {

inline std::string new_folder(const std::string& name) {
  std::string folder = own_folder() + "/" + name;
  std::filesystem::remove_all(folder);
  return folder;
}

inline LoopHooks make_hooks(const std::string& text, const ModelRef& model,
                            const LoopHooksSettings& options = {}) {
  return LoopHooks::from_config(parse_config(text), model, options);
}

inline void set_all(const ModelRef& model, double value) {
  torch::NoGradGuard no_grad;
  for (const NamedTensor& item : model.tensors()) item.tensor.fill_(value);
}

/// One number of a model, all of whose numbers are the same.
inline double value_of(const ModelRef& model) {
  return model.tensors().front().tensor.view({-1})[0].item<double>();
}

inline double value_of(const AveragedModel& average) {
  return average.named_averages().values().front().view({-1})[0].item<double>();
}

/// A training loop whose "optimizer" sets the weights to the number of the iteration.
inline void iterate(LoopHooks& hooks, const ModelRef& model, double value, bool step = true) {
  set_all(model, value);
  if (step) hooks.after_step();
  hooks.after_iter();
}

/// A layer, BatchNorm and a loss.
struct Net : torch::nn::Cloneable<Net> {
  Net() { Net::reset(); }
  void reset() override {
    linear = register_module("linear", torch::nn::Linear(3, 4));
    norm = register_module("norm", torch::nn::BatchNorm1d(4));
  }
  at::Tensor forward(const at::Tensor& input) { return norm(linear(input)).pow(2).mean(); }
  torch::nn::Linear linear{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};

inline void expect_same(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(at::equal(a[i].tensor, b[i].tensor)) << a[i].name;
}

}  // namespace polyak::test
