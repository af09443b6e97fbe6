// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "polyak/config/load.h"
#include "polyak/embed/loop_hooks.h"

namespace polyak::test {

using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;
using Maker = std::function<OptimizerPtr(std::vector<at::Tensor>)>;

inline const std::map<std::string, Maker>& makers() {
  using namespace torch::optim;
  static const auto& all = *new std::map<std::string, Maker>{
      {"SGD",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<SGD>(p, SGDOptions(0.01));
       }},
      {"SGDMomentum",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<SGD>(p, SGDOptions(0.01).momentum(0.9).weight_decay(0.1));
       }},
      {"Adam",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<Adam>(p, AdamOptions(0.01));
       }},
      {"AdamAmsgrad",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<Adam>(p, AdamOptions(0.01).amsgrad(true));
       }},
      {"AdamW",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<AdamW>(p, AdamWOptions(0.01));
       }},
      {"Adagrad",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<Adagrad>(p, AdagradOptions(0.01));
       }},
      {"RMSprop",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<RMSprop>(p, RMSpropOptions(0.01));
       }},
      {"RMSpropCentered",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<RMSprop>(p, RMSpropOptions(0.01).momentum(0.5).centered(true));
       }},
      {"LBFGS",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<LBFGS>(p, LBFGSOptions(0.1).max_iter(3).history_size(5));
       }},
      {"LBFGSLineSearch",
       [](std::vector<at::Tensor> p) -> OptimizerPtr {
         return std::make_unique<LBFGS>(
             p, LBFGSOptions(0.1).max_iter(2).line_search_fn(std::string("strong_wolfe")));
       }},
  };
  return all;
}

/// A program: a net, its optimizer, and hooks that save after each iteration.
struct Program {
  Program(const std::string& name, const std::string& work_dir, int64_t idle)
      : optimizer(makers().at(name)(net->parameters())),
        hooks(LoopHooks::from_config(
            parse_config("{work_dir: " + work_dir +
                         ", custom_hooks: [{type: CheckpointHook, by_epoch: false, interval: 1}]}"),
            net,
            LoopHooksSettings().optimizer(*optimizer).max_iters(8).accumulative_counts(idle + 1))) {
  }

  static torch::nn::Linear linear() {
    torch::manual_seed(3);
    return torch::nn::Linear(3, 2);
  }
  void iterate(bool step) {
    if (step) {
      optimizer->step([&] {
        optimizer->zero_grad();
        at::Tensor loss = (net->forward(at::eye(3)) - 1).pow(4).sum() + net->weight.pow(2).sum();
        loss.backward();
        return loss;
      });
      hooks.after_step();
    }
    hooks.after_iter();
  }

  torch::nn::Linear net = linear();
  OptimizerPtr optimizer;
  LoopHooks hooks;
};

}  // namespace polyak::test
