// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <cmath>
#include <optional>

#include "polyak/checkpoint/pth.h"
#include "polyak/config/load.h"
#include "polyak/core/log.h"
#include "polyak/runtime/saved_average.h"
#include "support/fake_runner.h"
#include "support/own_folder.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;

void fill(torch::nn::Module& module, double value) {
  torch::NoGradGuard no_grad;
  for (const at::Tensor& parameter : module.parameters()) parameter.fill_(value);
}

Node keys(std::vector<Node::Entry> entries) {
  return Node::mapping(std::move(entries));
}

std::shared_ptr<AveragedModel> build_through_registry(const ModelRef& model) {
  AveragedModel::Context context;
  context.model = model;
  return averages().build(keys({{"type", "ExponentialMovingAverage"}, {"momentum", 0.5}}), context);
}

/// A model of one weight, a hook, and a loop of a few lines.
class EMAHookTest : public ::testing::Test {
 protected:
  void use(Node hook_keys) {
    hook_ = make_ema_hook(hook_keys);
    runner_.hooks_.add(hook_);
  }
  void start(int64_t iters = 10, int64_t epochs = 2) {
    runner_.progress_.max_iters = iters;
    runner_.progress_.max_epochs = epochs;
    runner_.progress_.max_optimizer_steps = iters;
    runner_.progress_.optimizer_steps = 0;
    runner_.hooks_.call([&](Hook& hook) { hook.before_run(runner_); });
    runner_.hooks_.call([&](Hook& hook) { hook.before_train(runner_); });
  }
  void iterate(double weight, bool stepped = true) {
    fill(*net_, weight);
    if (stepped) ++runner_.progress_.optimizer_steps;
    runner_.hooks_.call([&](Hook& hook) { hook.after_train_iter(runner_, 0, {}); });
    ++runner_.progress_.iter;
  }
  float averaged() { return hook_->average()->named_averages()["weight"].item<float>(); }
  float raw() { return net_->weight.item<float>(); }

  torch::nn::Linear net_{1, 1};
  FakeRunner runner_{net_};
  std::shared_ptr<EMAHook> hook_;
};

TEST_F(EMAHookTest, DoesNotUpdateOnAnIterationWithoutAnOptimizerStep) {
  use(keys({{"momentum", 0.5}}));
  start();
  iterate(0);
  iterate(1, /*stepped=*/false);
  iterate(1, /*stepped=*/false);
  iterate(1);
  EXPECT_EQ(hook_->average()->steps(), 2);
  EXPECT_EQ(averaged(), 0.5F);
}

TEST_F(EMAHookTest, CountsIterationsAsTheReferenceDoesWhenAsked) {
  use(keys({{"momentum", 0.5}, {"count", "iterations"}}));
  start();
  iterate(0);
  iterate(1, /*stepped=*/false);
  EXPECT_EQ(hook_->average()->steps(), 2);
}

TEST_F(EMAHookTest, UpdatesEveryIterationForAHostThatDoesNotCountSteps) {
  use(keys({{"momentum", 0.5}}));
  start();
  runner_.progress_.optimizer_steps = -1;
  hook_->before_train(runner_);
  iterate(0, false);
  iterate(1, false);
  EXPECT_EQ(averaged(), 0.5F);
}

TEST_F(EMAHookTest, CosineLengthIsTheNumberOfOptimizerSteps) {
  use(keys({{"ema_type", "CosineEMA"}, {"momentum", 0.4}, {"end_momentum", 0.1}}));
  runner_.progress_.max_iters = 10;
  runner_.progress_.max_optimizer_steps = 5;
  hook_->before_run(runner_);
  EXPECT_EQ(hook_->average()->weight(5), 0.1);
  EXPECT_NEAR(hook_->average()->weight(2), 0.1 + 0.3 * (1 + std::cos(M_PI * 2 / 5)) / 2, 1e-15);
}

TEST_F(EMAHookTest, CosineWithoutAKnownLengthIsRefusedBeforeTraining) {
  use(keys({{"ema_type", "CosineEMA"}}));
  EXPECT_THAT([&] { hook_->before_run(runner_); },
              ThrowsMessage<ConfigError>(HasSubstr("max_iters")));
}

TEST_F(EMAHookTest, ValidationBeforeTheFirstUpdateSeesTheModelItself) {
  use(keys({{"momentum", 0.1}, {"begin_iter", 5}}));
  start();
  iterate(3);
  hook_->before_val_epoch(runner_);
  EXPECT_EQ(raw(), 3);
  Scalars metrics{{"accuracy", 1}};
  hook_->after_val_epoch(runner_, metrics);
  EXPECT_EQ(hook_->average()->steps(), 0);
}

TEST_F(EMAHookTest, AnExceptionInValidationLeavesTheRawWeights) {
  use(keys({{"momentum", 0.5}}));
  start();
  iterate(0);
  iterate(1);
  try {
    EvaluationScope scope(runner_, runner_.hooks_, Hook::Stage::val);
    EXPECT_EQ(raw(), 0.5F);
    throw std::runtime_error("out of memory");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(raw(), 1);
  EXPECT_FALSE(hook_->average()->is_swapped());
  iterate(1);  // and training goes on
  EXPECT_EQ(averaged(), 0.75F);
}

TEST_F(EMAHookTest, AnExceptionInALaterHookLeavesTheRawWeights) {
  struct Broken : Hook {
    std::string name() const override { return "Broken"; }
    void before_val_epoch(Runner&) override { throw std::runtime_error("broken hook"); }
  };
  use(keys({{"momentum", 0.5}}));
  runner_.hooks_.add(std::make_shared<Broken>());
  start();
  iterate(0);
  iterate(1);
  EXPECT_THROW(EvaluationScope(runner_, runner_.hooks_, Hook::Stage::val), std::runtime_error);
  EXPECT_EQ(raw(), 1);
}

TEST_F(EMAHookTest, TestAfterTrainMeasuresTheAveragedWeights) {
  use(keys({{"momentum", 0.5}}));
  start();
  iterate(0);
  iterate(1);
  hook_->before_run(runner_);  // a runner that starts again for its test
  hook_->before_test_epoch(runner_);
  EXPECT_EQ(raw(), 0.5F);
  Scalars none;
  hook_->after_test_epoch(runner_, none);
  EXPECT_EQ(raw(), 1);
}

TEST_F(EMAHookTest, BothWeightsAreEvaluatedAndLoggedSideBySide) {
  use(keys({{"momentum", 0.5}, {"evaluate_on_origin", true}}));
  runner_.evaluate_ = [&] { return Scalars{{"accuracy", raw()}}; };
  start();
  iterate(0);
  iterate(1);
  hook_->before_val_epoch(runner_);
  Scalars metrics = runner_.validate("");
  hook_->after_val_epoch(runner_, metrics);
  EXPECT_EQ(metrics, (Scalars{{"accuracy", 0.5}, {"accuracy_origin", 1}}));
}

TEST_F(EMAHookTest, NeitherEvaluationWarnsAndEvaluatesTheRawWeights) {
  std::vector<std::string> lines;
  LogSink before = set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  use(keys({{"momentum", 0.5}, {"evaluate_on_ema", false}}));
  set_log_sink(before);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("evaluate_on_ema"));
  start();
  iterate(0);
  iterate(1);
  hook_->before_val_epoch(runner_);
  EXPECT_EQ(raw(), 1);
}

TEST_F(EMAHookTest, SeveralAveragesShareAModelAndACheckpoint) {
  use(keys({{"momentum", 0.5}}));
  auto slow = make_ema_hook(keys({{"momentum", 0.25}, {"name", "slow"}}));
  runner_.hooks_.add(slow);
  runner_.evaluate_ = [&] { return Scalars{{"accuracy", raw()}}; };
  start();
  iterate(0);
  iterate(1);

  Scalars metrics;
  {
    EvaluationScope scope(runner_, runner_.hooks_, Hook::Stage::val);
    metrics = runner_.validate("");
    scope.finish(metrics);
  }
  EXPECT_EQ(metrics, (Scalars{{"accuracy", 0.5}, {"accuracy_slow", 0.25}}));
  EXPECT_EQ(raw(), 1);

  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  runner_.hooks_.call([&](Hook& hook) { hook.before_save_checkpoint(runner_, checkpoint); });
  auto weight = [](const Value& dict, const char* key) {
    return dict.at(key).as_tensor().item<float>();
  };
  EXPECT_EQ(weight(checkpoint.at("state_dict"), "weight"), 0.5F);
  EXPECT_EQ(weight(checkpoint.at("ema_state_dict"), "module.weight"), 1);
  EXPECT_EQ(weight(checkpoint.at("ema_state_dict.slow"), "module.weight"), 0.25F);

  torch::nn::Linear net{1, 1};
  FakeRunner again(net);
  auto first = make_ema_hook(keys({{"momentum", 0.5}}));
  auto second = make_ema_hook(keys({{"momentum", 0.25}, {"name", "slow"}}));
  for (const auto& hook : {first, second}) hook->before_run(again);
  again.resuming_ = true;
  for (const auto& hook : {first, second}) hook->after_load_checkpoint(again, checkpoint);
  EXPECT_EQ(weight(checkpoint.at("state_dict"), "weight"), 1);  // raw, for the model
  EXPECT_EQ(first->average()->named_averages()["weight"].item<float>(), 0.5F);
  EXPECT_EQ(second->average()->named_averages()["weight"].item<float>(), 0.25F);
  EXPECT_EQ(second->average()->steps(), 2);
}

TEST_F(EMAHookTest, OneNameTwiceIsRefused) {
  use(keys({{"momentum", 0.5}}));
  runner_.hooks_.add(make_ema_hook(keys({{"momentum", 0.25}})));
  EXPECT_THAT([&] { start(); }, ThrowsMessage<ConfigError>(HasSubstr("'name'")));
}

TEST_F(EMAHookTest, ACheckpointTakenWhileSwappedHoldsTheSameAsOneTakenBefore) {
  use(keys({{"momentum", 0.5}}));
  start();
  iterate(0);
  iterate(1);
  hook_->before_val_epoch(runner_);
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  hook_->before_save_checkpoint(runner_, checkpoint);
  EXPECT_EQ(checkpoint.at("state_dict").at("weight").as_tensor().item<float>(), 0.5F);
  EXPECT_EQ(checkpoint.at("ema_state_dict").at("module.weight").as_tensor().item<float>(), 1);
}

TEST_F(EMAHookTest, ASaveBeforeTheFirstUpdateKeepsTheWeightsThatTheAverageStartsFrom) {
  use(keys({{"momentum", 0.5}, {"begin_iter", 5}, {"start", "initial"}}));
  fill(*net_, 3);
  start();
  iterate(7);
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  hook_->before_save_checkpoint(runner_, checkpoint);
  EXPECT_EQ(checkpoint.at("state_dict").at("weight").as_tensor().item<float>(), 3);
  EXPECT_EQ(checkpoint.at("ema_state_dict").at("module.weight").as_tensor().item<float>(), 7)
      << "the raw weight, in the average's place";
}

TEST_F(EMAHookTest, AHalfPrecisionAverageResumesExactlyThroughAFile) {
  net_->to(at::kBFloat16);
  use(keys({{"momentum", 0.001}}));
  start();
  iterate(0);
  for (int i = 0; i < 5; ++i) iterate(1);
  const float exact = averaged();
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  hook_->before_save_checkpoint(runner_, checkpoint);
  const std::string file = own_folder() + "/half.pth";
  write_pth(file, checkpoint);
  Value loaded = read_pth(file);
  EXPECT_EQ(loaded.at("state_dict").at("weight").as_tensor().scalar_type(), at::kBFloat16);

  torch::nn::Linear net{1, 1};
  net->to(at::kBFloat16);
  FakeRunner again(net);
  again.resuming_ = true;
  auto hook = make_ema_hook(keys({{"momentum", 0.001}}));
  hook->before_run(again);
  hook->after_load_checkpoint(again, loaded);
  EXPECT_EQ(hook->average()->named_averages()["weight"].item<float>(), exact);
}

TEST_F(EMAHookTest, ACompensatedAverageResumesExactlyThroughAFile) {
  const Node options = keys({{"momentum", 1e-5}, {"precision", "compensated"}});
  use(options);
  start();
  iterate(3);
  for (int i = 0; i < 50; ++i) iterate(3.01);
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  hook_->before_save_checkpoint(runner_, checkpoint);
  const std::string file = own_folder() + "/compensated.pth";
  write_pth(file, checkpoint);
  Value loaded = read_pth(file);

  FakeRunner again(net_);
  again.resuming_ = true;
  auto hook = make_ema_hook(options);
  hook->before_run(again);
  hook->after_load_checkpoint(again, loaded);
  for (int i = 0; i < 50; ++i) {
    hook_->average()->update_parameters(net_);
    hook->average()->update_parameters(net_);
  }
  for (const auto& average : {hook_->average(), hook->average()}) {
    EXPECT_NEAR(average->named_averages()["weight"].item<double>(),
                3.01 - 0.01 * std::pow(1 - 1e-5, 100), 2e-7);
  }
  EXPECT_EQ(hook->average()->named_averages()["weight"].item<float>(), averaged());
  EXPECT_TRUE(at::equal(hook->average()->compensation()[0].tensor,
                        hook_->average()->compensation()[0].tensor));
}

/// Looks at the averages between two EMAHooks.
struct Spy : Hook {
  std::string name() const override { return "Spy"; }
  void after_train_iter(Runner&, int64_t, const Scalars&) override {
    seen = watched->average()->steps();
  }
  EMAHook* watched = nullptr;
  int64_t seen = -1;
};

TEST_F(EMAHookTest, NeighboursUpdateTogetherAndAHookBetweenThemSeesWhatWasBefore) {
  std::vector<std::shared_ptr<EMAHook>> hooks;
  for (const char* name : {"a", "b", "c", "d"}) {
    hooks.push_back(make_ema_hook(keys({{"momentum", 0.5}, {"name", name}})));
  }
  auto spy = std::make_shared<Spy>();
  spy->watched = hooks[1].get();
  for (const auto& hook : {hooks[0], hooks[1]}) runner_.hooks_.add(hook);
  runner_.hooks_.add(spy);
  for (const auto& hook : {hooks[2], hooks[3]}) runner_.hooks_.add(hook);
  start();
  for (int i = 1; i <= 3; ++i) {
    iterate(i);
    EXPECT_EQ(spy->seen, i);  // the two before the spy were updated when it looked
    for (const auto& hook : hooks) EXPECT_EQ(hook->average()->steps(), i);
  }
  EXPECT_EQ(runner_.logged_.count("ema_momentum_a"), 1u);
  EXPECT_EQ(runner_.logged_.count("ema_momentum_d"), 1u);
  for (const auto& hook : hooks) {
    EXPECT_EQ(hook->average()->named_averages()["weight"].item<float>(), 2.25F);
  }
}

TEST_F(EMAHookTest, TheLastOfNeighboursMakesTheUpdatesOfAll) {
  auto first = make_ema_hook(keys({{"momentum", 0.5}, {"name", "first"}}));
  auto last = make_ema_hook(keys({{"momentum", 0.5}, {"name", "last"}}));
  runner_.hooks_.add(first);
  runner_.hooks_.add(last);
  start();
  ++runner_.progress_.optimizer_steps;
  first->after_train_iter(runner_, 0, {});
  EXPECT_EQ(first->average()->steps(), 0);
  last->after_train_iter(runner_, 0, {});
  EXPECT_EQ(first->average()->steps(), 1);
  EXPECT_EQ(last->average()->steps(), 1);
  // A host that goes on with one of them by hand still gets its updates.
  for (int i = 0; i < 3; ++i) {
    ++runner_.progress_.optimizer_steps;
    first->after_train_iter(runner_, 0, {});
  }
  EXPECT_EQ(first->average()->steps(), 3);
  EXPECT_EQ(last->average()->steps(), 1);
}

TEST_F(EMAHookTest, WhoReadsTheAveragesComesAfterTheUpdatesThatNeighboursLeft) {
  auto first = make_ema_hook(keys({{"momentum", 0.5}, {"name", "first"}}));
  auto last = make_ema_hook(keys({{"momentum", 0.5}, {"name", "last"}}));
  for (const auto& hook : {first, last}) runner_.hooks_.add(hook);
  start();
  ++runner_.progress_.optimizer_steps;
  first->after_train_iter(runner_, 0, {});
  EXPECT_EQ(first->average()->steps(), 0);
  EXPECT_EQ(runner_.averages().find("first")->steps(), 1);
  last->after_train_iter(runner_, 0, {});
  EXPECT_EQ(first->average()->steps(), 1);
  EXPECT_EQ(last->average()->steps(), 1);

  ++runner_.progress_.optimizer_steps;
  first->after_train_iter(runner_, 0, {});
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  first->before_save_checkpoint(runner_, checkpoint);
  EXPECT_EQ(checkpoint.at("ema_state_dict.first").at("steps").as_tensor().item<int64_t>(), 2);
}

TEST_F(EMAHookTest, ANewModelAtTheAddressOfOneThatIsGoneGetsAnAverageOfItsOwn) {
  std::optional<torch::nn::LinearImpl> net;
  net.emplace(1, 1);
  FakeRunner runner{ModelRef(*net)};
  auto hook = make_ema_hook(keys({{"momentum", 0.5}}));
  hook->before_run(runner);
  hook->before_train(runner);
  fill(*net, 1);
  hook->after_train_iter(runner, 0, {});
  hook->before_run(runner);
  EXPECT_EQ(hook->average()->steps(), 1);  // the same model: its average goes on

  net.emplace(1, 1);
  fill(*net, 2);
  runner.model_ = ModelRef(*net);
  hook->before_run(runner);
  hook->before_train(runner);
  EXPECT_EQ(hook->average()->steps(), 0);
  hook->after_train_iter(runner, 0, {});
  EXPECT_EQ(hook->average()->named_averages()["weight"].item<float>(), 2);
  EXPECT_EQ(runner.averages().size(), 1u);
  EXPECT_EQ(runner.averages().find(""), hook->average());
}

TEST_F(EMAHookTest, AnAverageThatCodeSavedGoesOnInTheHook) {
  auto ema = build_through_registry(net_);
  for (int i = 0; i < 3; ++i) {
    fill(*net_, i);
    ema->update_parameters(net_);
  }
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  save_average(checkpoint, "", ema->state_dict());
  const std::string file = own_folder() + "/code.pth";
  write_pth(file, checkpoint);
  Value loaded = read_pth(file);
  use(keys({{"momentum", 0.5}}));
  runner_.resuming_ = true;
  hook_->before_run(runner_);
  hook_->after_load_checkpoint(runner_, loaded);
  EXPECT_EQ(hook_->average()->steps(), 3);
  EXPECT_EQ(averaged(), ema->named_averages()["weight"].item<float>());
  EXPECT_EQ(loaded.at("state_dict").at("weight").as_tensor().item<float>(), 2);  // raw
}

TEST_F(EMAHookTest, NeighboursThatStartLaterJoinLater) {
  auto first = make_ema_hook(keys({{"momentum", 0.5}, {"name", "first"}}));
  auto late = make_ema_hook(keys({{"momentum", 0.5}, {"name", "late"}, {"begin_iter", 3}}));
  runner_.hooks_.add(first);
  runner_.hooks_.add(late);
  start();
  for (int i = 0; i < 4; ++i) iterate(i);
  EXPECT_EQ(first->average()->steps(), 4);
  EXPECT_EQ(late->average()->steps(), 2);
}

TEST_F(EMAHookTest, ASkippedUpdateIsLogged) {
  use(keys({{"momentum", 0.5}, {"skip_nonfinite", true}}));
  start();
  iterate(1);
  EXPECT_EQ(runner_.logged_.count("ema_skipped"), 0u);
  iterate(std::nan(""));
  EXPECT_EQ(runner_.logged_["ema_skipped"], 1);
  iterate(1);
  EXPECT_EQ(averaged(), 1);
}

TEST_F(EMAHookTest, AnotherModelsCheckpointIsRefusedOnResume) {
  use(keys({{"momentum", 0.5}}));
  start();
  runner_.resuming_ = true;
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", Value::dict({{"weight", at::zeros({7, 7})}}));
  checkpoint.set("ema_state_dict", Value::dict({{"steps", at::tensor(int64_t{3})},
                                                {"module.weight", at::zeros({7, 7})}}));
  EXPECT_THAT([&] { hook_->after_load_checkpoint(runner_, checkpoint); },
              ThrowsMessage<CheckpointError>(HasSubstr("weight [7, 7] instead of [1, 1]")));
}

TEST_F(EMAHookTest, StrictLoadRefusesWhatDoesNotFit) {
  use(keys({{"momentum", 0.5}, {"strict_load", true}}));
  start();
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", Value::dict({{"weight", at::zeros({1, 1})}}));
  EXPECT_THAT([&] { hook_->after_load_checkpoint(runner_, checkpoint); },
              ThrowsMessage<CheckpointError>(HasSubstr("missing: bias")));
}

TEST_F(EMAHookTest, FineTuningWithBothEvaluationsStartsFromTheAverage) {
  use(keys({{"momentum", 0.5}, {"evaluate_on_origin", true}}));
  start();
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict",
                 Value::dict({{"weight", at::full({1, 1}, 1.0F)}, {"bias", at::ones({1})}}));
  checkpoint.set("ema_state_dict", Value::dict({{"steps", at::tensor(int64_t{9})},
                                                {"module.weight", at::full({1, 1}, 2.0F)},
                                                {"module.bias", at::ones({1})}}));
  hook_->after_load_checkpoint(runner_, checkpoint);
  fill(*net_, checkpoint.at("state_dict").at("weight").as_tensor().item<float>());
  EXPECT_EQ(raw(), 2);       // a test now sees both: 2 raw,
  EXPECT_EQ(averaged(), 1);  // 1 averaged
  hook_->before_train(runner_);
  EXPECT_EQ(raw(), 1);  // but training starts from the deployed weights
  EXPECT_EQ(hook_->average()->steps(), 0);
}

TEST_F(EMAHookTest, ATestOfACheckpointMeasuresNamedAveragesToo) {
  struct Tester : FakeRunner {
    using FakeRunner::FakeRunner;
    bool training() const override { return false; }
  } tester(net_);
  auto slow =
      make_ema_hook(keys({{"ema_type", "CosineEMA"}, {"name", "slow"}}));  // needs no length
  tester.hooks_.add(slow);
  slow->check_run(tester);
  slow->before_run(tester);
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", state_dict_of(net_));
  checkpoint.set("ema_state_dict.slow", Value::dict({{"steps", at::tensor(int64_t{9})},
                                                     {"module.weight", at::full({1, 1}, 7.0F)},
                                                     {"module.bias", at::ones({1})}}));
  slow->after_load_checkpoint(tester, checkpoint);
  tester.evaluate_ = [&] { return Scalars{{"accuracy", raw()}}; };
  Scalars metrics{{"accuracy", 1}};
  slow->after_test_epoch(tester, metrics);
  EXPECT_EQ(metrics["accuracy_slow"], 7);
}

TEST_F(EMAHookTest, FineTuningAnotherHeadWithBothEvaluationsOnlyWarns) {
  use(keys({{"momentum", 0.5}, {"evaluate_on_origin", true}}));
  start();
  Value checkpoint = Value::dict();
  checkpoint.set("state_dict", Value::dict({{"weight", at::zeros({7, 7})}}));
  checkpoint.set("ema_state_dict", Value::dict({{"steps", at::tensor(int64_t{3})},
                                                {"module.weight", at::zeros({7, 7})}}));
  std::vector<std::string> lines;
  LogSink before = set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  hook_->after_load_checkpoint(runner_, checkpoint);
  set_log_sink(before);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("weight [7, 7] instead of [1, 1]"));
}

// ---- bad input

TEST(EMAHookOptions, WrongKeysAndValuesAreRefusedAtOnce) {
  auto expect_error = [](Node node, const char* part) {
    EXPECT_THAT([&] { make_ema_hook(node); }, ThrowsMessage<ConfigError>(HasSubstr(part)));
  };
  expect_error(keys({{"momentum", 3}}), "(0, 1)");
  expect_error(keys({{"momentm", 0.1}}),
               "did you mean 'momentum'? EMAHook takes: averages, base_batch_size, begin_epoch, "
               "begin_iter,");
  expect_error(keys({{"interval", 1.5}}), "interval");
  expect_error(keys({{"gamma", 4}}), "unknown key");
  expect_error(keys({{"ema_type", "CosinEMA"}}), "did you mean 'CosineEMA'?");
  expect_error(keys({{"begin_iter", 1}, {"begin_epoch", 1}}), "begin_iter and begin_epoch");
  expect_error(keys({{"begin_iter", -1}}), "begin_iter");
  expect_error(keys({{"count", "steps"}}), "optimizer_steps");
}

TEST(EMAHookOptions, WhatIsWrongIsPlacedAtItsOwnKey) {
  const auto expect_error = [](const std::string& lines, const std::string& start) {
    const Node config = parse_config("custom_hooks:\n  - type: EMAHook\n" + lines, "c.yaml");
    const Node& block = config.at("custom_hooks").items()[0];
    EXPECT_THAT([&] { make_ema_hook(block.without({"type"})); },
                ThrowsMessage<ConfigError>(StartsWith(start)));
  };
  expect_error("    momentum: 0.1\n    ema_type: CosinEMA\n",
               "c.yaml:4:5: custom_hooks[0].ema_type: no average is named 'CosinEMA'; did you mean "
               "'CosineEMA'?");
  expect_error("    ema_type: 3\n", "c.yaml:3:5: custom_hooks[0].ema_type: must be a string");
  expect_error("    momentum: 0.1\n    device: warp\n",
               "c.yaml:4:5: custom_hooks[0].device: 'warp' is not a device");
  expect_error("    begin_iter: 1\n    begin_epoch: 2\n",
               "c.yaml:4:5: custom_hooks[0].begin_epoch: begin_iter and begin_epoch cannot both be "
               "set; begin_iter is 1, begin_epoch is 2");
  expect_error("    name: ema\n", "c.yaml:3:5: custom_hooks[0].name: 'ema' cannot name");
  expect_error("    momentum: 3\n", "c.yaml:3:5: custom_hooks[0].momentum: must be in (0, 1)");
  // One block, two owners: unknown keys are told once, with the names of both.
  expect_error("    begin: 3\n    gamma: 4\n    ema_type: mmpretrain.CosineEMA\n",
               "c.yaml:3:5: custom_hooks[0].begin: unknown key; EMAHook takes: averages, "
               "base_batch_size, begin_epoch, begin_iter, ");
  expect_error("    evaluate_on_orign: true\n",
               "c.yaml:3:5: custom_hooks[0].evaluate_on_orign: unknown key; did you mean "
               "'evaluate_on_origin'? EMAHook takes: ");
}

TEST_F(EMAHookTest, AnAverageWhoseBeginIsAfterTheRunIsRefused) {
  use(keys({{"ema_type", "StochasticWeightAverage"}, {"begin", "60%"}, {"begin_iter", 6}}));
  EXPECT_THAT([&] { start(); },
              ThrowsMessage<ConfigError>(
                  HasSubstr("the average starts after 6 updates, but the run makes 5 of them")));
}

TEST_F(EMAHookTest, AnAverageThatWouldNeverStartIsRefused) {
  use(keys({{"momentum", 0.1}, {"begin_epoch", 3}}));
  EXPECT_THAT([&] { start(10, 2); }, ThrowsMessage<ConfigError>(HasSubstr("never start")));
}

}  // namespace
}  // namespace polyak::test
