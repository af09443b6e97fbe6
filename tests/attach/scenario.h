// SPDX-License-Identifier: Apache-2.0
// What the scenarios share: a model, the usual loop, and a record of the weights.
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/output-archive.h>
#include <torch/types.h>

#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "weights_dump.h"

using Arguments = std::vector<std::string>;
using Scenarios = std::map<std::string, std::function<int(const Arguments&)>>;

/// Scenarios of forks, threads and ends.
Scenarios scenarios_of_ends();

struct Net : torch::nn::Module {
  explicit Net(int64_t width = 16) : first(8, width), norm(width), second(width, 4) {
    register_module("first", first);
    register_module("norm", norm);
    register_module("second", second);
    second->bias.set_requires_grad(false);  // as in fine-tuning
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return second->forward(torch::relu(norm->forward(first->forward(x))));
  }
  torch::nn::Linear first;
  torch::nn::BatchNorm1d norm;
  torch::nn::Linear second;
};

class Steps {
 public:
  explicit Steps(const std::string& name) : file_(name + ".bin", std::ios::binary) {}
  /// What has a name that starts so.
  void add(const torch::nn::Module& module, const std::string& start = "") {
    dump_weights(file_, module, start);
  }
  void add(const torch::jit::Module& module) { dump_weights(file_, module); }

 private:
  std::ofstream file_;
};

template <class Model>
torch::Tensor loss_of(Model& model) {
  const auto x = torch::randn({32, 8});
  return (model.forward(x) - x.slice(1, 0, 4).tanh()).square().mean();
}

/// One turn of the usual loop.
inline void plain_turn(Net& model, torch::optim::Optimizer& optimizer) {
  optimizer.zero_grad();
  loss_of(model).backward();
  optimizer.step();
}

inline void train(Net& model, torch::optim::Optimizer& optimizer, int steps, Steps& dump) {
  for (int i = 0; i < steps; ++i) {
    plain_turn(model, optimizer);
    dump.add(model);
  }
}

template <class Saved>
void save(const Saved& saved, const std::string& path) {
  torch::serialize::OutputArchive archive;
  saved.save(archive);
  archive.save_to(path);
}
