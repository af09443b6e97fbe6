// SPDX-License-Identifier: Apache-2.0
// A loop's optimizer with parameters in several groups, in another order, or outside of the model.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/embed/loop_hooks.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

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
    at::Tensor loss = net->forward(at::eye(3)).pow(2).sum();
    if (outside.requires_grad()) loss = loss * outside.sum();
    loss.backward();
    optimizer.step();
    hooks.after_step();
    hooks.after_iter();
  }
  /// Has the optimizer update a tensor that the model does not have.
  void add_outside() {
    outside.set_requires_grad(true);
    optimizer.param_groups()[0].params().insert(optimizer.param_groups()[0].params().begin(),
                                                outside);
  }

  at::Tensor outside = at::full({2}, 0.5);
  torch::nn::Linear net{3, 2};
  torch::optim::SGD optimizer;
  LoopHooks hooks;
};

TEST(LoopOptimizerGroups, ParametersInAnotherOrderGetTheirOwnStates) {
  const std::string folder = own_folder() + "/order";
  std::filesystem::remove_all(folder);
  Grouped first(folder, {{"weight", "bias"}});
  first.iterate();
  first.iterate();
  {
    Grouped second(copy_of(folder), {{"bias", "weight"}});
    ASSERT_TRUE(second.hooks.resume());
    first.iterate();
    second.iterate();
    EXPECT_TRUE(at::equal(first.net->weight, second.net->weight));
    EXPECT_TRUE(at::equal(first.net->bias, second.net->bias));
    second.hooks.after_train();
  }
  first.hooks.after_train();
}

TEST(LoopOptimizerGroups, GroupsInAnotherOrderKeepTheirNumbers) {
  const std::string folder = own_folder() + "/group_order";
  std::filesystem::remove_all(folder);
  {
    Grouped first(folder, {{"weight"}, {"bias"}});
    first.optimizer.param_groups()[1].options().set_lr(0.25);
    first.iterate();
    first.hooks.after_train();
  }
  Grouped second(folder, {{"bias"}, {"weight"}});
  ASSERT_TRUE(second.hooks.resume());
  EXPECT_EQ(second.optimizer.param_groups()[0].options().get_lr(), 0.25);
  EXPECT_EQ(second.optimizer.param_groups()[1].options().get_lr(), 0.01);
  second.hooks.after_train();
}

TEST(LoopOptimizerGroups, TensorsOutsideTheModelHaveAPlaceAmongThem) {
  const std::string folder = own_folder() + "/outside";
  std::filesystem::remove_all(folder);
  Grouped first(folder, {{"weight", "bias"}});
  first.add_outside();
  first.iterate();
  first.iterate();
  {
    Grouped second(copy_of(folder), {{"weight", "bias"}});
    second.add_outside();
    ASSERT_TRUE(second.hooks.resume());
    second.outside.detach().copy_(first.outside.detach());
    first.iterate();
    second.iterate();
    EXPECT_TRUE(at::equal(first.outside, second.outside));
    EXPECT_TRUE(at::equal(first.net->weight, second.net->weight));
    second.hooks.after_train();
    Grouped third(copy_of(folder), {{"weight", "bias"}});
    EXPECT_THAT([&] { third.hooks.resume(); },
                testing::ThrowsMessage<CheckpointError>(
                    testing::HasSubstr("the checkpoint has 3 parameters, the loop 2")));
  }
  first.hooks.after_train();
}

TEST(LoopOptimizerGroups, AStateThatDoesNotFitLeavesAveragesAndWeightsAlone) {
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
                  testing::HasSubstr("weight and bias are in one group in the checkpoint, but in "
                                     "groups 1 and 2 of the loop's optimizer")));
  EXPECT_TRUE(at::equal(second.net->weight, weight));
  EXPECT_TRUE(at::equal(second.hooks.average()->state().front().tensor, average));
  EXPECT_EQ(second.hooks.average()->steps(), 0);
  EXPECT_TRUE(second.optimizer.state().empty());
  EXPECT_EQ(second.hooks.progress().iter, 0);
}

}  // namespace
}  // namespace polyak::test
