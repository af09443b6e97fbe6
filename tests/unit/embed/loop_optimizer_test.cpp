// SPDX-License-Identifier: Apache-2.0
// Optimizers of a loop of one's own, saved and taken up again.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <filesystem>
#include <map>

#include "polyak/averaging/averaged_model.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/embed/loop_hooks.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;
using Maker = std::function<OptimizerPtr(std::vector<at::Tensor>)>;

const std::map<std::string, Maker>& makers() {
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

std::string copy_of(const std::string& folder) {
  const std::string copy = folder + "_copy";
  std::filesystem::remove_all(copy);
  std::filesystem::copy(folder, copy, std::filesystem::copy_options::recursive);
  return copy;
}

class LoopOptimizer : public ::testing::TestWithParam<std::string> {};

TEST_P(LoopOptimizer, IsSavedAndGoesOnBitForBit) {
  for (const int64_t steps : {0, 1, 2, 3, 4}) {
    SCOPED_TRACE(steps);
    const std::string folder = own_folder() + "/run";
    std::filesystem::remove_all(folder);
    Program first(GetParam(), folder, /*idle=*/1);
    if (steps == 0) first.iterate(/*step=*/false);
    for (int64_t i = 0; i < steps; ++i) first.iterate(true);
    {
      Program second(GetParam(), copy_of(folder), 1);  // one run a folder
      ASSERT_TRUE(second.hooks.resume());
      EXPECT_TRUE(at::equal(first.net->weight, second.net->weight));
      for (int i = 0; i < 3; ++i) {
        first.iterate(true);
        second.iterate(true);
      }
      EXPECT_TRUE(at::equal(first.net->weight, second.net->weight));
      EXPECT_TRUE(first.net->weight.isfinite().all().item<bool>());
      second.hooks.after_train();
    }
    first.hooks.after_train();
  }
}

TEST(LoopOptimizers, AnotherOnesStateIsRefusedWithBothNames) {
  for (const auto& [before, now] : std::map<std::string, std::string>{
           {"SGD", "Adam"}, {"Adam", "AdamW"}, {"AdamW", "SGDMomentum"}, {"RMSprop", "LBFGS"}}) {
    const std::string folder = own_folder() + "/run";
    std::filesystem::remove_all(folder);
    Program first(before, folder, 0);
    first.iterate(true);
    first.hooks.after_train();
    Program second(now, folder, 0);
    const at::Tensor weight = second.net->weight.detach().clone();
    EXPECT_THAT([&] { second.hooks.resume(); },
                testing::ThrowsMessage<CheckpointError>(testing::AllOf(
                    testing::HasSubstr("iter_1.pth: holds the optimizer state of torch::optim::" +
                                       before.substr(0, before.find("Momentum"))),
                    testing::HasSubstr("optimizer is torch::optim::" +
                                       now.substr(0, now.find("Momentum"))))));
    EXPECT_TRUE(at::equal(second.net->weight, weight));
  }
}

/// A loop over one net, whose optimizer has its parameters in groups of a test's choice.
struct Grouped {
  Grouped(const std::string& work_dir, const std::vector<std::vector<std::string>>& names)
      : optimizer(groups_of(names), torch::optim::SGDOptions(0.01).momentum(0.9)),
        hooks(LoopHooks::from_config(
            parse_config("{work_dir: " + work_dir +
                         ", custom_hooks: [{type: EMAHook, momentum: 0.1}, {type: CheckpointHook, "
                         "by_epoch: false, interval: 1}]}"),
            net, LoopHooksSettings().optimizer(optimizer).max_iters(8))) {}

  std::vector<torch::optim::OptimizerParamGroup> groups_of(
      const std::vector<std::vector<std::string>>& names) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    for (const std::vector<std::string>& group : names) {
      std::vector<at::Tensor> parameters;
      for (const std::string& name : group) parameters.push_back(net->named_parameters()[name]);
      groups.emplace_back(parameters);
    }
    return groups;
  }
  void iterate() {
    optimizer.zero_grad();
    net->forward(at::eye(3)).pow(2).sum().backward();
    optimizer.step();
    hooks.after_step();
    hooks.after_iter();
  }

  torch::nn::Linear net{3, 2};
  torch::optim::SGD optimizer;
  LoopHooks hooks;
};

TEST(LoopOptimizers, ParametersInAnotherOrderAreRefusedByName) {
  const std::string folder = own_folder() + "/order";
  std::filesystem::remove_all(folder);
  {
    Grouped first(folder, {{"weight", "bias"}});
    first.iterate();
    first.hooks.after_train();
  }
  Grouped second(folder, {{"bias", "weight"}});
  EXPECT_THAT([&] { second.hooks.resume(); },
              testing::ThrowsMessage<CheckpointError>(testing::HasSubstr(
                  "parameter 1 of its optimizer is 'weight', but 'bias' in the loop's")));
}

TEST(LoopOptimizers, AStateThatDoesNotFitLeavesAveragesAndWeightsAlone) {
  const std::string folder = own_folder() + "/groups";
  std::filesystem::remove_all(folder);
  {
    Grouped first(folder, {{"weight", "bias"}});
    first.iterate();
    first.hooks.after_train();
  }
  Grouped second(folder, {{"weight"}, {"bias"}});
  const at::Tensor weight = second.net->weight.detach().clone();
  const at::Tensor average = second.hooks.average()->state().front().tensor.clone();
  EXPECT_THAT([&] { second.hooks.resume(); },
              testing::ThrowsMessage<CheckpointError>(
                  testing::HasSubstr("its optimizer state does not fit")));
  EXPECT_TRUE(at::equal(second.net->weight, weight));
  EXPECT_TRUE(at::equal(second.hooks.average()->state().front().tensor, average));
  EXPECT_EQ(second.hooks.average()->steps(), 0);
  EXPECT_TRUE(second.optimizer.state().empty());
  EXPECT_EQ(second.hooks.progress().iter, 0);
}

TEST(LoopOptimizers, TheCheckpointsRateGoesOnWithAWord) {
  const std::string folder = own_folder() + "/run";
  std::filesystem::remove_all(folder);
  Program first("SGD", folder, 0);
  first.iterate(true);
  first.hooks.after_train();
  Program second("SGD", folder, 0);
  second.optimizer->param_groups()[0].options().set_lr(0.5);
  std::vector<std::string> lines;
  LogSink before = set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  EXPECT_TRUE(second.hooks.resume());
  set_log_sink(before);
  EXPECT_THAT(lines, testing::Contains(
                         "resume: continuing with the checkpoint's lr 0.01 (the program set 0.5)"));
  EXPECT_EQ(second.optimizer->param_groups()[0].options().get_lr(), 0.01);
}

INSTANTIATE_TEST_SUITE_P(Types, LoopOptimizer, ::testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const auto& item : makers()) names.push_back(item.first);
                           return names;
                         }()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace polyak::test
