// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <csignal>
#include <filesystem>

#include "polyak/averaging/averaged_model.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/embed/loop_hooks.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/runner.h"
#include "support/averages.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::string new_folder(const std::string& name) {
  std::string folder = own_folder() + "/" + name;
  fs::remove_all(folder);
  return folder;
}

/// A run of 4 epochs of 5 iterations, a step after each second one.
struct Loop {
  Loop(const std::string& text, int64_t stop_after)
      : hooks(LoopHooks::from_config(
            parse_config(text), net,
            LoopHooksSettings().max_epochs(4).epoch_length(5).accumulative_counts(2).optimizer(
                optimizer))),
        stop_after_(stop_after) {
    const torch::NoGradGuard no_grad;
    net->weight.fill_(0.5);
    net->bias.fill_(0.1);
  }

  void run() {
    while (hooks.progress().epoch < 4 && !hooks.stop_requested()) {
      for (int64_t batch = hooks.batch(); batch < 5 && !hooks.stop_requested(); ++batch) {
        const int64_t iter = hooks.progress().iter;
        if (iter % 2 == 0) optimizer.zero_grad();
        const at::Tensor input = at::arange(6, at::kFloat).view({2, 3}).add(iter).sin();
        net->forward(input).pow(2).mean().backward();
        if (iter % 2 == 1) {
          optimizer.step();
          hooks.after_step();
        }
        hooks.after_iter();
        if (hooks.progress().iter == stop_after_) stop();
      }
      if (hooks.stop_requested() && hooks.progress().iter % 5 != 0) break;
      hooks.after_epoch();
    }
    hooks.after_train();
  }

  std::function<void()> stop = [this] { hooks.request_stop(); };
  torch::nn::Linear net{3, 2};
  torch::optim::SGD optimizer{net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9)};
  LoopHooks hooks;

 private:
  int64_t stop_after_;
};

std::string with_average(const std::string& folder) {
  return "work_dir: " + folder +
         "\ncustom_hooks: [{type: EMAHook, momentum: 0.25}, {type: CheckpointHook, interval: "
         "10}]\n";
}

TEST(LoopHooksResume, AfterAStopBetweenTwoStepsIsExact) {
  Loop whole(with_average(new_folder("whole")), -1);
  whole.run();
  for (int64_t stop : {3, 6, 7}) {
    const std::string folder = new_folder("stopped");
    Loop first(with_average(folder), stop);
    first.run();
    EXPECT_TRUE(fs::exists(fmt::format("{}/iter_{}.pth", folder, stop)));
    Loop rest(with_average(folder), -1);
    ASSERT_TRUE(rest.hooks.resume());
    rest.run();
    EXPECT_TRUE(at::equal(rest.net->weight, whole.net->weight)) << stop;
    EXPECT_TRUE(at::equal(rest.hooks.average()->state().front().tensor,
                          whole.hooks.average()->state().front().tensor))
        << stop;
    EXPECT_FALSE(fs::exists(fmt::format("{}/iter_{}.pth", folder, stop)));
    EXPECT_TRUE(fs::exists(folder + "/epoch_4.pth"));
  }
}

TEST(LoopHooksResume, StopsOnASignalAndPutsTheHandlersBack) {
  static int earlier = 0;
  std::signal(SIGTERM, [](int) { ++earlier; });
  const std::string folder = new_folder("signalled");
  Loop loop(with_average(folder), 7);
  loop.hooks.stop_on_signals();
  loop.stop = [] { std::raise(SIGTERM); };
  loop.run();
  EXPECT_EQ(loop.hooks.stop_signal(), SIGTERM);
  EXPECT_EQ(earlier, 0);
  EXPECT_TRUE(fs::exists(folder + "/iter_7.pth"));
  std::raise(SIGTERM);
  EXPECT_EQ(earlier, 1);
  std::signal(SIGTERM, SIG_DFL);
}

TEST(LoopHooksResume, WithoutTheAverageGoesOnWithTheRawWeights) {
  const std::string folder = new_folder("dropped");
  Loop first(with_average(folder), 6);
  first.run();
  Loop rest("work_dir: " + folder + "\ncustom_hooks: [{type: CheckpointHook}]\n", -1);
  const std::vector<std::string> said = log_of([&] { ASSERT_TRUE(rest.hooks.resume()); });
  EXPECT_TRUE(at::equal(rest.net->weight, first.net->weight));
  EXPECT_THAT(said, Contains(HasSubstr("no hook keeps the checkpoint's ExponentialMovingAverage")));
}

TEST(LoopHooksResume, FindsCheckpointsInAnOutDir) {
  const std::string folder = new_folder("with_out_dir"), files = new_folder("files");
  const std::string text = fmt::format(
      "work_dir: {}\ncustom_hooks: [{{type: CheckpointHook, interval: 1, out_dir: {}}}]\n", folder,
      files);
  Loop first(text, 5);
  first.run();
  Loop rest(text, -1);
  EXPECT_TRUE(rest.hooks.resume());
  EXPECT_EQ(rest.hooks.progress().iter, 5);
}

TEST(LoopHooksResume, SaysWhetherTheCheckpointsPlaceWasValidated) {
  const std::string text = fmt::format(
      "work_dir: {}\ncustom_hooks: [{{type: CheckpointHook, interval: 1, save_best: accuracy}}]\n",
      new_folder("validated"));
  const auto measure = [] { return Scalars{{"accuracy", 1.0}}; };
  {
    Loop killed(text, 5);
    killed.run();
  }
  {
    Loop rest(text, 10);
    ASSERT_TRUE(rest.hooks.resume());
    EXPECT_FALSE(rest.hooks.validated());
    rest.hooks.validate(measure);
    EXPECT_TRUE(rest.hooks.validated());
  }
  Loop again(text, -1);
  ASSERT_TRUE(again.hooks.resume());
  EXPECT_TRUE(again.hooks.validated()) << "the checkpoint was written again";
}

TEST(LoopHooksResume, TwoOfThemDoNotShareAFolder) {
  const std::string text = with_average(new_folder("shared"));
  const Loop generator(text, -1);
  EXPECT_THAT([&] { Loop(text, -1); },
              ThrowsMessage<ConfigError>(HasSubstr("give each run its own work_dir")));
}

/// Refuses what is loaded, until it is told otherwise; after an EMAHook has taken its part.
struct Refuser : Hook {
  bool refuses = true;
  std::string name() const override { return "Refuser"; }
  int priority() const override { return kLowest; }
  void after_load_checkpoint(Runner&, Value&) override {
    if (refuses) throw CheckpointError("Refuser: not this one");
  }
};

TEST(LoopHooksResume, ARefusalChangesNothingAndTheNextTryGoesOnBitForBit) {
  Loop whole(with_average(new_folder("unrefused")), -1);
  whole.run();
  const std::string folder = new_folder("refused");
  Loop(with_average(folder), 7).run();
  Loop rest(with_average(folder), -1);
  const auto refuser = std::make_shared<Refuser>();
  rest.hooks.runner().hooks().add(refuser);
  const at::Tensor weight = rest.net->weight.detach().clone();
  const at::Tensor average = rest.hooks.average()->state().front().tensor.clone();
  EXPECT_THAT([&] { rest.hooks.resume(); },
              ThrowsMessage<CheckpointError>(HasSubstr("iter_7.pth: Refuser: not this one")));
  EXPECT_TRUE(at::equal(rest.net->weight, weight));
  EXPECT_FALSE(rest.net->weight.grad().defined());
  EXPECT_TRUE(rest.optimizer.state().empty()) << "no momentum";
  EXPECT_TRUE(at::equal(rest.hooks.average()->state().front().tensor, average));
  EXPECT_EQ(rest.hooks.average()->steps(), 0);
  EXPECT_EQ(rest.hooks.progress().iter, 0);
  EXPECT_EQ(rest.hooks.iterations_done(), 0);
  EXPECT_EQ(rest.hooks.steps_done(), 0);
  EXPECT_FALSE(rest.hooks.runner().resuming());

  refuser->refuses = false;
  ASSERT_TRUE(rest.hooks.resume());
  EXPECT_EQ(rest.hooks.iterations_done(), 7);
  rest.run();
  EXPECT_TRUE(at::equal(rest.net->weight, whole.net->weight));
  EXPECT_TRUE(at::equal(rest.hooks.average()->state().front().tensor,
                        whole.hooks.average()->state().front().tensor));
}

TEST(LoopHooksResume, AnOutDirWithoutAWorkDirIsLockedToo) {
  const std::string text = fmt::format(
      "custom_hooks: [{{type: CheckpointHook, interval: 1, out_dir: {}}}]\n", new_folder("alone"));
  const Loop first(text, -1);
  EXPECT_THAT([&] { Loop(text, -1); },
              ThrowsMessage<ConfigError>(HasSubstr("another run uses " + own_folder() + "/alone")));
}

TEST(LoopHooksResume, AFileBeyondTheRunsEndIsRefused) {
  const std::string folder = new_folder("beyond");
  Loop(with_average(folder), -1).run();
  torch::nn::Linear net(3, 2);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  LoopHooks hooks = LoopHooks::from_config(
      parse_config(with_average(folder)), net,
      LoopHooksSettings().max_epochs(3).epoch_length(5).optimizer(optimizer));
  EXPECT_THAT([&] { hooks.resume(); }, ThrowsMessage<CheckpointError>(HasSubstr(
                                           "epoch_4.pth: is at epoch 4, but this run ends at 3")));
}

}  // namespace
}  // namespace polyak::test
