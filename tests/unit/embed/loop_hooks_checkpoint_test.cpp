// SPDX-License-Identifier: Apache-2.0
// Checkpoints of a loop of one's own, and what goes on from them.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/adam.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>

#include <filesystem>
#include <fstream>

#include "polyak/averaging/averaged_model.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/runtime/runner.h"
#include "unit/embed/loop_hooks_testing.h"

namespace polyak::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

std::string checkpoints_in(const std::string& folder) {
  return "work_dir: " + folder +
         "\n"
         "default_hooks:\n"
         "  info: {type: RuntimeInfoHook}\n"
         "  timer: null\n"
         "  checkpoint: {type: CheckpointHook, interval: 1, save_best: accuracy}\n"
         "custom_hooks:\n"
         "  - {type: EMAHook, ema_type: CosineEMA, momentum: 0.1, precision: compensated}\n"
         "  - {type: EMAHook, momentum: 0.01, name: slow, update_buffers: true}\n";
}

/// A run of two epochs of three batches; `stop_after` epochs are done in this process.
struct SmallRun {
  SmallRun(const std::string& folder, int64_t stop_after) {
    at::manual_seed(7);
    net = std::make_shared<Net>();
    torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(0.05));
    LoopHooks hooks =
        make_hooks(checkpoints_in(folder), net,
                   LoopHooksSettings().max_epochs(4).epoch_length(3).optimizer(optimizer));
    resumed = hooks.resume();
    for (int64_t epoch = hooks.progress().epoch; epoch < stop_after; ++epoch) {
      for (int64_t batch = 0; batch < 3; ++batch) {
        const at::Tensor input = at::arange(15, at::kFloat)
                                     .view({5, 3})
                                     .add(static_cast<double>(3 * epoch + batch))
                                     .sin();
        optimizer.zero_grad();
        const at::Tensor loss = net->forward(input);
        loss.backward();
        optimizer.step();
        hooks.after_step();
        hooks.after_iter({{"loss", loss.item<double>()}});
      }
      hooks.after_epoch();
      hooks.validate([&] { return Scalars{{"accuracy", static_cast<double>(epoch)}}; });
    }
    if (stop_after == 4) hooks.after_train();
    average = hooks.average();
    slow = hooks.average("slow");
  }
  std::shared_ptr<Net> net;
  bool resumed = false;
  std::shared_ptr<AveragedModel> average, slow;
};

TEST(LoopHooks, ARunThatWasBrokenOffGoesOnBitForBit) {
  const std::string whole_folder = new_folder("whole"), folder = new_folder("broken_off");
  const SmallRun whole(whole_folder, 4);
  EXPECT_FALSE(whole.resumed);
  log_of([&] { EXPECT_FALSE(SmallRun(folder, 2).resumed); });
  const SmallRun rest(folder, 4);
  EXPECT_TRUE(rest.resumed);
  expect_same(ModelRef(rest.net).tensors(), ModelRef(whole.net).tensors());
  expect_same(rest.average->state(), whole.average->state());
  expect_same(rest.average->compensation(), whole.average->compensation());
  expect_same(rest.slow->state(), whole.slow->state());
  EXPECT_EQ(rest.average->steps(), 12);
  EXPECT_TRUE(fs::exists(folder + "/epoch_4.pth"));
  EXPECT_TRUE(fs::exists(folder + "/best_accuracy_epoch_4.pth"));
  EXPECT_FALSE(fs::exists(folder + "/best_accuracy_epoch_2.pth")) << "the best score is known";
}

TEST(LoopHooks, ACheckpointHoldsTheAveragedWeights) {
  const std::string folder = new_folder("averaged");
  const SmallRun run(folder, 4);
  const Value checkpoint = read_pth(folder + "/epoch_4.pth");
  const auto averages = run.average->named_averages();
  EXPECT_TRUE(at::equal(checkpoint.at("state_dict").at("linear.weight").as_tensor(),
                        averages["linear.weight"]));
  EXPECT_TRUE(at::equal(checkpoint.at("ema_state_dict").at("module.linear.weight").as_tensor(),
                        run.net->linear->weight));
  EXPECT_EQ(checkpoint.at("meta").at("epoch").as_int(), 4);
  EXPECT_EQ(checkpoint.at("meta").at("iter").as_int(), 12);
}

TEST(LoopHooks, ResumeInsideAnEpochSaysHowManyBatchesAreDone) {
  const std::string text = "work_dir: " + new_folder("inside") +
                           "\ncustom_hooks: [{type: CheckpointHook, interval: 2, by_epoch: false}]";
  torch::nn::Linear net(1, 1);
  const auto options = LoopHooksSettings().max_epochs(2).epoch_length(5);
  log_of([&] {
    LoopHooks hooks = make_hooks(text, net, options);
    for (int i = 0; i < 5; ++i) iterate(hooks, net, i);
    hooks.after_epoch();
    for (int i = 5; i < 9; ++i) iterate(hooks, net, i);  // the last file is that of iteration 8
  });
  LoopHooks hooks = make_hooks(text, net, options);
  EXPECT_TRUE(hooks.resume());
  EXPECT_EQ(hooks.progress().epoch, 1);
  EXPECT_EQ(hooks.progress().iter, 8);
  EXPECT_EQ(hooks.batch(), 3);
  EXPECT_EQ(hooks.steps_done(), 8);
  EXPECT_EQ(value_of(net), 7);
  iterate(hooks, net, 8);
  iterate(hooks, net, 9);
  EXPECT_THAT(log_of([&] {
                hooks.after_epoch();
                hooks.after_train();
              }),
              IsEmpty());
}

TEST(LoopHooks, ResumeFromTheLastIterationOfAnEpochGoesOnWithTheNext) {
  const std::string text = "work_dir: " + new_folder("boundary") +
                           "\ncustom_hooks: [{type: CheckpointHook, interval: 5, by_epoch: false}]";
  torch::nn::Linear net(1, 1);
  const auto options = LoopHooksSettings().max_epochs(2).epoch_length(5);
  log_of([&] {
    LoopHooks hooks = make_hooks(text, net, options);
    for (int i = 0; i < 5; ++i) iterate(hooks, net, i);
  });
  LoopHooks hooks = make_hooks(text, net, options);
  EXPECT_TRUE(hooks.resume());
  EXPECT_EQ(hooks.progress().iter, 5);
  EXPECT_EQ(hooks.progress().epoch, 1);
  EXPECT_EQ(hooks.batch(), 0);
}

/// Of one's own, and without a save().
class Silent : public torch::optim::Optimizer {
 public:
  explicit Silent(std::vector<at::Tensor> parameters)
      : Optimizer(std::move(parameters), std::make_unique<torch::optim::SGDOptions>(0.1)) {}
  at::Tensor step(LossClosure) override { return {}; }
};

TEST(LoopHooks, AnOptimizerThatSavesNothingIsRefusedBeforeTraining) {
  const std::string text = "work_dir: " + new_folder("silent") +
                           "\ncustom_hooks: [{type: CheckpointHook, interval: 1, by_epoch: false}]";
  torch::nn::Linear net(1, 1);
  Silent optimizer(net->parameters());
  EXPECT_THAT([&] { make_hooks(text, net, LoopHooksSettings().optimizer(optimizer)); },
              ThrowsMessage<CheckpointError>(HasSubstr("does not save its state")));
}

TEST(LoopHooks, EveryOptimizerOfLibTorchSurvivesAResume) {
  const std::string text = "work_dir: " + new_folder("optimizers") +
                           "\ncustom_hooks: [{type: CheckpointHook, interval: 1}]";
  auto train = [](torch::nn::Linear& net, torch::optim::Optimizer& optimizer) {
    auto closure = [&] {
      optimizer.zero_grad();
      at::Tensor loss = net(at::ones({2, 3})).sub(1).pow(2).mean();
      loss.backward();
      return loss;
    };
    optimizer.step(closure);
  };
  for (const bool lbfgs : {false, true}) {
    auto make = [&](torch::nn::Linear& net) -> std::unique_ptr<torch::optim::Optimizer> {
      if (lbfgs) {
        return std::make_unique<torch::optim::LBFGS>(net->parameters(),
                                                     torch::optim::LBFGSOptions(0.1).max_iter(2));
      }
      return std::make_unique<torch::optim::SGD>(net->parameters(),
                                                 torch::optim::SGDOptions(0.1).momentum(0.9));
    };
    torch::nn::Linear net(3, 2);
    const auto optimizer = make(net);
    log_of([&] {
      LoopHooks hooks = make_hooks(text, net, LoopHooksSettings().optimizer(*optimizer));
      train(net, *optimizer);
      optimizer->param_groups()[0].options().set_lr(0.05);
      hooks.after_step();
      hooks.after_iter();
      hooks.after_epoch();
    });
    torch::nn::Linear other(3, 2);
    const auto fresh = make(other);
    LoopHooks hooks = make_hooks(text, other, LoopHooksSettings().optimizer(*fresh));
    log_of([&] { EXPECT_TRUE(hooks.resume()); });
    EXPECT_EQ(*hooks.runner().learning_rate(), 0.05);
    train(net, *optimizer);
    train(other, *fresh);
    EXPECT_TRUE(at::equal(net->weight, other->weight)) << (lbfgs ? "LBFGS" : "SGD");
  }
}

TEST(LoopHooks, ACheckpointThatDoesNotFitIsRefused) {
  const std::string folder = new_folder("other_model");
  const std::string text =
      "work_dir: " + folder + "\ncustom_hooks: [{type: CheckpointHook, interval: 1}]";
  torch::nn::Linear net(1, 1), larger(2, 1);
  log_of([&] {
    LoopHooks hooks = make_hooks(text, net);
    iterate(hooks, net, 1);
    hooks.after_epoch();
  });
  EXPECT_THAT([&] { make_hooks(text, larger).resume(); },
              ThrowsMessage<CheckpointError>(
                  AllOf(HasSubstr("epoch_1.pth"), HasSubstr("weight ([1, 1] in the checkpoint"))));
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  EXPECT_THAT([&] { make_hooks(text, net, LoopHooksSettings().optimizer(optimizer)).resume(); },
              ThrowsMessage<CheckpointError>(HasSubstr("optimizer")));
  std::ofstream(folder + "/last_checkpoint") << "epoch_9.pth";
  EXPECT_THROW(make_hooks(text, net).resume(), CheckpointError);
}

}  // namespace
}  // namespace polyak::test
