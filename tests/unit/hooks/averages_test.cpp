// SPDX-License-Identifier: Apache-2.0
// Several averages in one block of an EMAHook, lengths of a run, and write_back in a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <cmath>

#include "polyak/averaging/average_state.h"
#include "polyak/config/load.h"
#include "polyak/runtime/saved_average.h"
#include "support/fake_runner.h"

namespace polyak::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

/// A model of one weight, the hooks of a block of YAML, and a loop of a few lines.
class BlockOfAverages : public ::testing::Test {
 protected:
  void use(const std::string& block) {
    hook_ = make_ema_hook(parse_config(block, "c.yaml"));
    runner_.hooks_.add(hook_);
  }
  void start() {
    runner_.progress_.max_iters = 40;
    runner_.progress_.max_epochs = 4;
    runner_.progress_.epoch_length = 10;
    runner_.progress_.batch_size = 8;
    runner_.progress_.max_optimizer_steps = 40;
    runner_.progress_.optimizer_steps = 0;
    runner_.hooks_.call([&](Hook& hook) { hook.check_run(runner_); });
    runner_.hooks_.call([&](Hook& hook) { hook.before_run(runner_); });
    runner_.hooks_.call([&](Hook& hook) { hook.before_train(runner_); });
  }
  void iterate(double weight) {
    {
      const torch::NoGradGuard no_grad;
      net_->weight.fill_(weight);
    }
    ++runner_.progress_.optimizer_steps;
    runner_.hooks_.call([&](Hook& hook) { hook.after_train_iter(runner_, 0, {}); });
    ++runner_.progress_.iter;
  }
  std::shared_ptr<AveragedModel> average(const std::string& name) {
    return runner_.averages().find(name);
  }
  Node option(const std::string& name, const std::string& key) {
    return average(name)->rule_options().at(key);
  }
  void expect_refused(const std::string& block, const std::string& start) {
    EXPECT_THAT([&] { make_ema_hook(parse_config(block, "c.yaml")); },
                ThrowsMessage<ConfigError>(StartsWith(start)))
        << block;
  }

  torch::nn::Linear net_{torch::nn::LinearOptions(1, 1).bias(false)};
  FakeRunner runner_{net_};
  std::shared_ptr<EMAHook> hook_;
};

TEST_F(BlockOfAverages, IsAHookForEachAndOnePassOverTheWeights) {
  use("averages:\n  - {decay: 0.5}\n  - {decay: 0.75, name: slow}\n"
      "  - {type: StochasticWeightAverage, name: mean}\n");
  start();
  ASSERT_EQ(runner_.averages().size(), 3u);
  for (const double weight : {1.0, 2.0, 4.0}) iterate(weight);
  const auto value = [&](const char* name) {
    return average(name)->named_averages()["weight"].item<double>();
  };
  EXPECT_FLOAT_EQ(value(""), 2.75);
  EXPECT_FLOAT_EQ(value("slow"), 1.9375);
  EXPECT_NEAR(value("mean"), 7.0 / 3, 1e-6);
}

TEST_F(BlockOfAverages, EvaluatesThoseThatAreListed) {
  use("averages: [{decay: 0.5}, {decay: 0.75, name: slow}, {decay: 0.9, name: other}]\n"
      "evaluate: [slow]\n");
  start();
  std::vector<std::string> suffixes;
  runner_.hooks_.call([&](Hook& hook) {
    for (const auto& [suffix, weights] : hook.measured_weights()) suffixes.push_back(weights);
  });
  EXPECT_THAT(suffixes, ElementsAre("slow"));
}

TEST_F(BlockOfAverages, SavesEachUnderItsName) {
  use("averages: [{decay: 0.5}, {type: BEMA, name: bema}]\n");
  start();
  for (const double weight : {1.0, 2.0, 4.0}) iterate(weight);
  Value checkpoint = Value::dict();
  Value state_dict = Value::dict();
  for (const NamedTensor& item : runner_.model().tensors()) state_dict.set(item.name, item.tensor);
  checkpoint.set("state_dict", std::move(state_dict));
  runner_.hooks_.call([&](Hook& hook) { hook.before_save_checkpoint(runner_, checkpoint); });
  const AverageState saved = saved_average(checkpoint, "bema");
  EXPECT_EQ(saved.steps, 3);
  ASSERT_EQ(saved.kept.size(), 2u) << "the running average and the first weights";
  EXPECT_EQ(saved.kept[1].tensors[0].tensor.item<float>(), 1);
  EXPECT_EQ(saved_average(checkpoint, "").steps, 3);
}

TEST_F(BlockOfAverages, LengthsAreThoseOfTheRun) {
  use("averages:\n"
      "  - {half_life: 2ep}\n"
      "  - {half_life: 25%, name: part}\n"
      "  - {half_life: 80samples, name: samples, base_batch_size: 4}\n"
      "  - {type: StochasticWeightAverage, begin: 75%, name: swa}\n");
  start();
  EXPECT_NEAR(average("")->weight(5), 1 - std::pow(0.5, 1.0 / 20), 1e-12);
  EXPECT_NEAR(average("part")->weight(5), 1 - std::pow(0.5, 1.0 / 10), 1e-12);
  EXPECT_NEAR(average("samples")->weight(5), 1 - std::pow(0.5, 2.0 / 10), 1e-12)
      << "80 samples are 10 updates of 8, and a batch of twice the base counts twice";
  EXPECT_EQ(option("swa", "begin").as_int(), 30);
}

TEST_F(BlockOfAverages, WriteBackCanResetTheOptimizer) {
  use("momentum: 0.5\nwrite_back: {every: 2, optimizer_state: reset}\n");
  start();
  for (const double weight : {1.0, 2.0}) iterate(weight);
  EXPECT_EQ(runner_.optimizer_resets_, 0);
  iterate(4);
  EXPECT_EQ(runner_.optimizer_resets_, 1);
  EXPECT_EQ(net_->weight.item<float>(), 2.75F) << "1, 1.5, then (1.5 + 4) / 2";
}

TEST_F(BlockOfAverages, ASkippedUpdateDoesNotResetTheOptimizerOnceMore) {
  use("momentum: 0.5\nskip_nonfinite: true\nwrite_back: {every: 2, optimizer_state: reset}\n");
  start();
  for (const double weight : {1.0, 2.0, 4.0}) iterate(weight);
  EXPECT_EQ(runner_.optimizer_resets_, 1);
  iterate(std::nan(""));
  EXPECT_EQ(runner_.optimizer_resets_, 1);
}

TEST_F(BlockOfAverages, WrongKeysAreRefusedAtTheirOwnPlace) {
  expect_refused("averages: 3\n", "c.yaml:1:1: averages: must be a list of averages");
  expect_refused("averages: []\n", "c.yaml:1:1: averages: must be a list of averages");
  expect_refused("averages:\n  - 3\n", "c.yaml:2:5: averages[0]: must be a mapping");
  expect_refused("averages:\n  - {decay: 0.9}\n  - {decay: 0.99}\n",
                 "c.yaml:3:5: averages[1]: is the second average without a name");
  expect_refused("averages:\n  - {decay: 0.9, name: a}\n  - {decay: 0.99, name: a}\n",
                 "c.yaml:3:19: averages[1].name: is the name of an earlier average: 'a'");
  expect_refused("averages:\n  - {decai: 0.9}\n", "c.yaml:2:6: averages[0].decai: unknown key");
  expect_refused("averages:\n  - {type: EMB}\n", "c.yaml:2:6: averages[0].type: no average");
  expect_refused("averages: [{decay: 0.9}]\nmomentum: 0.1\n",
                 "c.yaml:2:1: momentum: belongs into an entry of 'averages'");
  expect_refused("averages: [{decay: 0.9}]\nema_type: CosineEMA\n", "c.yaml:2:1: ema_type: is the");
  expect_refused("averages: [{decay: 0.9}]\nname: a\n", "c.yaml:2:1: name: belongs into");
  expect_refused("averages: [{decay: 0.9}]\nevaluate: [b]\n",
                 "c.yaml:2:12: evaluate[0]: 'b' is not an average of this block; they are: ema");
  expect_refused("momentum: 0.1\nevaluate: [ema]\n", "c.yaml:2:1: evaluate: chooses among");
  expect_refused("averages:\n  - {decay: 0.9, name: a/b}\n",
                 "c.yaml:2:18: averages[0].name: 'a/b' cannot name an average");
}

}  // namespace
}  // namespace polyak::test
