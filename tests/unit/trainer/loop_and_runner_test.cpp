// SPDX-License-Identifier: Apache-2.0
// A run that the runner begins and a loop of one's own continues, and the other way round, with the
// same optimizer: both end as the runner does alone.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/register.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/embed/loop_hooks.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/train_runner.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

/// 4 iterations in an epoch, of the same batches in every epoch.
const char* const kRun = R"(
model:
  type: ImageClassifier
  backbone: {type: MLP, hidden: [6]}
  head: {type: LinearClsHead}
train_dataloader:
  batch_size: 4
  dataset: {type: RandomImages, size: 16, num_classes: 4}
  sampler: {type: DefaultSampler, shuffle: false}
randomness: {seed: 3}
device: cpu
env_cfg: {num_threads: 1}
default_hooks: {runtime_info: null, timer: null, logger: null}
)";
constexpr int64_t kEpochs = 4, kBatches = 4;

using Parameters = std::vector<std::pair<std::string, at::Tensor>>;
using TorchOptimizer = std::unique_ptr<torch::optim::Optimizer>;

struct Case {
  const char* name;
  const char* config;  // of the runner's optim_wrapper
  std::function<TorchOptimizer(const Parameters& parameters)> make;  // the loop's
};

/// Weights and biases in groups of their own; only weights decay.
template <class Torch, class TorchOptions>
TorchOptimizer in_two_groups(const Parameters& parameters, const TorchOptions& options) {
  std::vector<at::Tensor> weights, biases;
  for (const auto& [name, tensor] : parameters) {
    (name.find("bias") == std::string::npos ? weights : biases).push_back(tensor);
  }
  using Group = torch::optim::OptimizerParamGroup;
  auto made = std::make_unique<Torch>(std::vector<Group>{Group(weights), Group(biases)}, options);
  static_cast<TorchOptions&>(made->param_groups()[1].options()).weight_decay(0);
  return made;
}

template <class Torch, class TorchOptions>
TorchOptimizer in_one_group(const Parameters& parameters, const TorchOptions& options) {
  std::vector<at::Tensor> all;
  for (const auto& item : parameters) all.push_back(item.second);
  return std::make_unique<Torch>(all, options);
}

const std::vector<Case>& cases() {
  namespace optim = torch::optim;
  static const auto& all = *new std::vector<Case>{
      {"SGD", "{optimizer: {type: SGD, lr: 0.05, momentum: 0.9, nesterov: true}}",
       [](const Parameters& p) {
         return in_one_group<optim::SGD>(p, optim::SGDOptions(0.05).momentum(0.9).nesterov(true));
       }},
      {"Adam",
       "{optimizer: {type: Adam, lr: 0.01, weight_decay: 0.1, amsgrad: true}, "
       "paramwise_cfg: "
       "{custom_keys: {bias: {decay_mult: 0}}}}",
       [](const Parameters& p) {
         return in_two_groups<optim::Adam>(
             p, optim::AdamOptions(0.01).weight_decay(0.1).amsgrad(true));
       }},
      {"AdamW", "{optimizer: {type: AdamW, lr: 0.01, betas: [0.8, 0.99], weight_decay: 0.1}}",
       [](const Parameters& p) {
         return in_one_group<optim::AdamW>(
             p, optim::AdamWOptions(0.01).betas({0.8, 0.99}).weight_decay(0.1));
       }},
  };
  return all;
}

class LoopAndRunner : public ::testing::TestWithParam<Case> {
 protected:
  LoopAndRunner() {
    register_averages(catalog_);
    register_trainer(catalog_);
    load_plugin(find_plugin("polyak_hooks", ""), catalog_);
  }

  std::string folder(const std::string& name) const {
    return own_folder() + "/" + GetParam().name + "_" + name;
  }
  Node config(const std::string& work_dir, int64_t epochs) const {
    Node node = parse_config(kRun);
    node.set("work_dir", work_dir);
    node.set("optim_wrapper", parse_config(GetParam().config));
    node.set("train_cfg", parse_config(fmt::format("{{max_epochs: {}}}", epochs)));
    return node;
  }
  void run(const std::string& work_dir, int64_t epochs, bool resume) {
    Node node = config(work_dir, epochs);
    node.set("resume", resume);
    TrainRunner(node, catalog_).train();
  }
  /// A loop that trains what the runner trains.
  void loop(const std::string& work_dir, int64_t epochs) {
    const Node node = config(work_dir, epochs);
    DataLoader data(node.at("train_dataloader"), catalog_, /*training=*/true, /*seed=*/0);
    const auto model = catalog_.of<Algorithm>().build(
        node.at("model"), {&catalog_, data.dataset().image_shape(), data.dataset().num_classes()});
    const auto module = as_module(model);
    Parameters parameters;
    for (const auto& item : module->named_parameters()) {
      parameters.emplace_back(item.key(), item.value());
    }
    const TorchOptimizer optimizer = GetParam().make(parameters);
    LoopHooks hooks = LoopHooks::from_config(
        parse_config("{work_dir: " + work_dir + ", custom_hooks: [{type: CheckpointHook}]}"),
        module,
        LoopHooksSettings().max_epochs(epochs).epoch_length(kBatches).optimizer(*optimizer));
    hooks.resume();
    while (hooks.progress().epoch < epochs) {
      for (int64_t i = 0; i < kBatches; ++i) {
        optimizer->zero_grad();
        for (const auto& [name, value] : model->loss(data.batch(hooks.progress().epoch, i))) {
          if (name.find("loss") != std::string::npos) value.backward();
        }
        optimizer->step();
        hooks.after_step();
        hooks.after_iter();
      }
      hooks.after_epoch();
    }
    hooks.after_train();
  }

  /// That the last file has the weights of the runner alone and the states of its optimizer.
  void expect_same_end(const std::string& work_dir) {
    const std::string file = fmt::format("/epoch_{}.pth", kEpochs);
    const Value ours = read_pth(work_dir + file), theirs = read_pth(folder("whole") + file);
    for (const auto& [name, value] : theirs.at("state_dict").entries()) {
      EXPECT_TRUE(at::equal(ours.at("state_dict").at(name).as_tensor(), value.as_tensor()))
          << name.as_string();
    }
    EXPECT_EQ(ours.at("optimizer").at("state").entries().size(),
              theirs.at("optimizer").at("state").entries().size());
    const auto states = [](const Value& optimizer) {
      std::map<std::string, const Value*> found;
      for (const Value& group : optimizer.at("param_groups").items()) {
        for (size_t i = 0; i < group.at("params").items().size(); ++i) {
          found[group.at("param_names").items()[i].as_string()] =
              &optimizer.at("state").at(group.at("params").items()[i]);
        }
      }
      return found;
    };
    const auto now = states(ours.at("optimizer"));
    for (const auto& [name, state] : states(theirs.at("optimizer"))) {
      ASSERT_TRUE(now.count(name)) << name;
      for (const auto& [key, value] : state->entries()) {
        EXPECT_TRUE(at::equal(now.at(name)->at(key).as_tensor(), value.as_tensor()))
            << name << " " << key.as_string();
      }
    }
  }

  Catalog catalog_;
};

TEST_P(LoopAndRunner, ContinueEachOthersRunsBitForBit) {
  for (const char* name : {"whole", "runner_first", "loop_first"}) {
    std::filesystem::remove_all(folder(name));
  }
  run(folder("whole"), kEpochs, false);
  run(folder("runner_first"), 2, false);
  loop(folder("runner_first"), kEpochs);
  expect_same_end(folder("runner_first"));

  // The loop's file is what the runner takes up.
  run(folder("loop_first"), 1, false);
  loop(folder("loop_first"), 3);
  run(folder("loop_first"), kEpochs, true);
  expect_same_end(folder("loop_first"));
}

INSTANTIATE_TEST_SUITE_P(Optimizers, LoopAndRunner, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace polyak::test
