// SPDX-License-Identifier: Apache-2.0
#include "polyak/embed/loop_hooks.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "polyak/averaging/averages.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/runner.h"
#include "unit/embed/loop_hooks_testing.h"

namespace polyak::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr const char* kEma = "custom_hooks: [{type: EMAHook, momentum: 0.25}]";

/// Writes down which points are called.
struct Recorder : Hook {
  std::vector<std::string> points;
  std::string name() const override { return "Recorder"; }
  void before_train(Runner&) override { points.emplace_back("before_train"); }
  void after_train(Runner&) override { points.emplace_back("after_train"); }
  void after_run(Runner&) override { points.emplace_back("after_run"); }
  void before_train_epoch(Runner&) override { points.emplace_back("before_train_epoch"); }
  void after_train_epoch(Runner& runner) override {
    points.push_back(fmt::format("after_train_epoch {}", runner.progress().epoch));
  }
  void before_train_iter(Runner&, int64_t batch) override {
    points.push_back(fmt::format("before_train_iter {}", batch));
  }
  void after_train_iter(Runner& runner, int64_t batch, const Scalars&) override {
    points.push_back(fmt::format("after_train_iter {} {}", batch, runner.progress().iter));
  }
  void before_val_epoch(Runner&) override { points.emplace_back("before_val_epoch"); }
  void after_val_epoch(Runner&, Scalars& metrics) override {
    points.push_back(fmt::format("after_val_epoch {}", metrics.size()));
  }
};

/// Hooks of a config that needs none, and a recorder.
struct Recorded {
  explicit Recorded(const LoopHooksSettings& options = {})
      : hooks(make_hooks("custom_hooks: [{type: RuntimeInfoHook}]", net, options)) {
    hooks.runner().hooks().add(recorder);
  }
  torch::nn::Linear net{1, 1};
  std::shared_ptr<Recorder> recorder = std::make_shared<Recorder>();
  LoopHooks hooks;
};

// ---- what it does

TEST(LoopHooks, AnEmptyConfigChangesNothing) {
  for (const char* text : {"{}", "custom_hooks: []", "custom_hooks: null", "work_dir: nowhere"}) {
    torch::nn::Linear net(2, 2);
    LoopHooks hooks = make_hooks(text, net);
    EXPECT_FALSE(hooks.resume());
    iterate(hooks, net, 1, /*step=*/false);  // not even a step is asked for
    iterate(hooks, net, 2);
    hooks.after_epoch();
    EXPECT_EQ(hooks.validate([&] {
      return Scalars{{"value", value_of(net)}};
    }),
              (Scalars{{"value", 2}}));
    EXPECT_EQ(hooks.average(), nullptr);
    hooks.after_train();
    EXPECT_FALSE(fs::exists("nowhere"));
  }
}

TEST(LoopHooks, AverageFollowsTheOptimizersSteps) {
  torch::nn::Linear net(1, 1);
  LoopHooks hooks = make_hooks(kEma, net);
  iterate(hooks, net, 4);                  // copied
  iterate(hooks, net, 8, /*step=*/false);  // gathers gradients only
  iterate(hooks, net, 8);                  // 4 + (8 - 4) / 4
  EXPECT_EQ(value_of(*hooks.average()), 5);
  EXPECT_EQ(hooks.average()->steps(), 2);
  EXPECT_EQ(hooks.steps_done(), 2);
  EXPECT_EQ(hooks.iterations_done(), 3);
}

TEST(LoopHooks, ValidationSeesTheAverageAndTrainingTheRawWeights) {
  torch::nn::Linear net(1, 1);
  LoopHooks hooks = make_hooks(kEma, net);
  iterate(hooks, net, 4);
  iterate(hooks, net, 8);
  EXPECT_EQ(hooks.validate([&] { return Scalars{{"value", value_of(net)}}; }).at("value"), 5);
  EXPECT_EQ(value_of(net), 8);
  {
    LoopEvaluation pass = hooks.validation();
    EXPECT_EQ(value_of(net), 5);
    EXPECT_EQ(pass.finish({{"value", 1}}).at("value"), 1);
    EXPECT_EQ(value_of(net), 8);
  }
  {
    const LoopEvaluation pass = hooks.testing();  // the guard alone does too
    EXPECT_EQ(value_of(net), 5);
  }
  EXPECT_EQ(value_of(net), 8);
  iterate(hooks, net, 9);
}

TEST(LoopHooks, SecondMeasurementsComeFromTheSameFunction) {
  torch::nn::Linear net(1, 1);
  LoopHooks hooks = make_hooks(
      "custom_hooks:\n"
      "  - {type: EMAHook, momentum: 0.25, evaluate_on_origin: true}\n"
      "  - {type: EMAHook, momentum: 0.5, name: fast}\n",
      net);
  iterate(hooks, net, 4);
  iterate(hooks, net, 8);
  EXPECT_EQ(hooks.validate([&] {
    return Scalars{{"value", value_of(net)}};
  }),
            (Scalars{{"value", 5}, {"value_origin", 8}, {"value_fast", 6}}));
  EXPECT_EQ(value_of(*hooks.average("fast")), 6);
  EXPECT_THAT(
      [&] {
        hooks.validation().finish({{"value", 1}});
      },
      ThrowsMessage<Error>(HasSubstr("call validate(function) instead")));
  EXPECT_EQ(value_of(net), 8);
}

TEST(LoopHooks, AnExceptionInAValidationLeavesTheRawWeights) {
  torch::nn::Linear net(1, 1);
  LoopHooks hooks = make_hooks(kEma, net);
  iterate(hooks, net, 4);
  iterate(hooks, net, 8);
  EXPECT_THROW(hooks.validate([&]() -> Scalars {
    EXPECT_EQ(value_of(net), 5);
    throw std::runtime_error("no data");
  }),
               std::runtime_error);
  EXPECT_EQ(value_of(net), 8);
  iterate(hooks, net, 8);  // and the loop may go on
}

TEST(LoopHooks, AnEvaluationMayOutliveThem) {
  torch::nn::Linear net(1, 1);
  {
    std::optional<LoopEvaluation> pass;
    {
      LoopHooks hooks = make_hooks(kEma, net);
      iterate(hooks, net, 4);
      iterate(hooks, net, 8);
      hooks.after_train();
      pass.emplace(hooks.testing());
    }
    EXPECT_EQ(value_of(net), 5);
  }
  EXPECT_EQ(value_of(net), 8);
}

TEST(LoopHooks, TakesEveryKindOfModel) {
  struct Plain : torch::nn::Module {
    Plain() { register_parameter("weight", at::zeros({2})); }
  };
  torch::jit::Module script("Net");
  script.register_parameter("weight", at::zeros({2}), /*is_buffer=*/false);
  Plain plain;
  at::Tensor flat = at::zeros({4});
  const std::vector<ModelRef> models{
      torch::nn::Sequential(torch::nn::Linear(1, 2), torch::nn::Linear(2, 1)),
      std::make_shared<torch::nn::LinearImpl>(2, 2),
      plain,
      script,
      ModelRef({{"a", flat.slice(0, 0, 2)}, {"b", flat.slice(0, 2, 4)}}),
  };
  for (const ModelRef& model : models) {
    LoopHooks hooks = make_hooks(kEma, model);
    iterate(hooks, model, 4);
    iterate(hooks, model, 8);
    EXPECT_EQ(hooks.validate([&] {
                     return Scalars{{"value", value_of(model)}};
                   })
                  .at("value"),
              5)
        << model.class_name();
    EXPECT_EQ(value_of(model), 8);
    hooks.after_train();
  }
}

TEST(LoopHooks, PointsComeInTheTrainersOrderWhateverTheLoopLeavesOut) {
  const std::vector<std::string> expected{
      "before_train",         "before_train_epoch",  "before_train_iter 0",
      "after_train_iter 0 0", "before_train_iter 1", "after_train_iter 1 1",
      "after_train_epoch 0",  "before_val_epoch",    "after_val_epoch 1",
      "before_train_epoch",   "before_train_iter 0", "after_train_iter 0 2",
      "after_train_epoch 1",  "after_train",         "after_run"};
  for (const bool tell_all : {false, true}) {
    Recorded loop;
    for (int epoch = 0; epoch < 2; ++epoch) {
      if (tell_all) loop.hooks.before_epoch();
      for (int batch = 0; batch < 2 - epoch; ++batch) {
        if (tell_all) loop.hooks.before_iter();
        loop.hooks.after_step();
        loop.hooks.after_iter();
      }
      loop.hooks.after_epoch();
      if (epoch == 0) loop.hooks.validate([] { return Scalars{{"value", 1}}; });
    }
    loop.hooks.after_train();
    EXPECT_EQ(loop.recorder->points, expected) << tell_all;
  }
}

TEST(LoopHooks, ALoopThatCountsIterationsIsOneEpochToHooks) {
  Recorded loop(LoopHooksSettings().max_iters(2));
  for (int i = 0; i < 2; ++i) {
    loop.hooks.after_step();
    loop.hooks.after_iter();
  }
  loop.hooks.after_train();
  EXPECT_THAT(loop.recorder->points,
              ElementsAre("before_train", "before_train_epoch", "before_train_iter 0",
                          "after_train_iter 0 0", "before_train_iter 1", "after_train_iter 1 1",
                          "after_train_epoch 0", "after_train", "after_run"));
}

TEST(LoopHooks, BeginsAreHonoured) {
  torch::nn::Linear net(1, 1);
  LoopHooks by_iter = make_hooks("custom_hooks: [{type: EMAHook, begin_iter: 3}]", net);
  for (int i = 1; i <= 4; ++i) iterate(by_iter, net, i);
  EXPECT_EQ(by_iter.average()->steps(), 2);
  LoopHooks by_epoch = make_hooks("custom_hooks: [{type: EMAHook, begin_epoch: 2}]", net);
  for (int i = 1; i <= 4; ++i) {
    iterate(by_epoch, net, i);
    if (i % 2 == 0) by_epoch.after_epoch();
  }
  EXPECT_EQ(by_epoch.average()->steps(), 2);
}

// ---- lengths

const char* const kCosine = "custom_hooks: [{type: EMAHook, ema_type: CosineEMA, momentum: 0.5}]\n";

double cosine_length(const LoopHooks& hooks) {
  return static_cast<double>(hooks.average()->rule_options().at("max_iters").as_int());
}

TEST(LoopHooks, CosineTakesItsLengthFromTheLoopInOptimizerSteps) {
  torch::nn::Linear net(1, 1);
  auto options = [] { return LoopHooksSettings(); };
  EXPECT_EQ(cosine_length(make_hooks(kCosine, net, options().max_epochs(3).epoch_length(7))), 21);
  EXPECT_EQ(cosine_length(make_hooks(kCosine, net, options().max_iters(9))), 9);
  EXPECT_EQ(cosine_length(make_hooks(
                kCosine, net, options().max_epochs(3).epoch_length(7).accumulative_counts(2))),
            11);
  EXPECT_EQ(cosine_length(make_hooks(std::string(kCosine) + "max_iters: 12", net)), 12);
  EXPECT_EQ(cosine_length(
                make_hooks(std::string(kCosine) + "max_epochs: 2", net, options().epoch_length(5))),
            10);
  EXPECT_EQ(cosine_length(make_hooks("custom_hooks: [{type: EMAHook, ema_type: CosineEMA, "
                                     "max_iters: 8}]",
                                     net)),
            8);
}

TEST(LoopHooks, CosineWithoutALengthIsRefusedBeforeTraining) {
  torch::nn::Linear net(1, 1);
  for (const LoopHooksSettings& options :
       {LoopHooksSettings(), LoopHooksSettings().max_epochs(3)}) {
    EXPECT_THAT([&] { make_hooks(kCosine, net, options); },
                ThrowsMessage<ConfigError>(AllOf(HasSubstr("<text>:1:"), HasSubstr("CosineEMA"),
                                                 HasSubstr("max_iters: is required"))));
  }
}

TEST(LoopHooks, ContradictoryLengthsAreRefused) {
  torch::nn::Linear net(1, 1);
  EXPECT_THAT(
      [&] { make_hooks("max_iters: 5", net, LoopHooksSettings().max_iters(6)); },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("max_iters"), HasSubstr("its own length"))));
  EXPECT_THAT(
      [&] {
        make_hooks("{}", net, LoopHooksSettings().max_epochs(2).epoch_length(5).max_iters(11));
      },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("11"), HasSubstr("10"))));
  EXPECT_THAT([&] { make_hooks("{}", net, LoopHooksSettings().max_epochs(0)); },
              ThrowsMessage<ConfigError>(HasSubstr("max_epochs: must be at least 1, got 0")));
  const int64_t many = int64_t{1} << 40;
  EXPECT_THAT([&] { make_hooks("{}", net, LoopHooksSettings().max_iters(many << 20)); },
              ThrowsMessage<ConfigError>(HasSubstr("in [1, 9007199254740992]")));
  EXPECT_THAT(
      [&] { make_hooks("{}", net, LoopHooksSettings().max_epochs(many).epoch_length(many)); },
      ThrowsMessage<ConfigError>(HasSubstr("a run has at most 2^53")));
}

// ---- wrong order

TEST(LoopHooks, EveryCallAtTheWrongTimeIsAClearError) {
  const auto says = [](const char* text) { return ThrowsMessage<Error>(HasSubstr(text)); };
  Recorded loop;
  LoopHooks& hooks = loop.hooks;
  EXPECT_THAT([&] { hooks.after_epoch(); }, says("no iteration was reported in epoch 1"));
  hooks.before_epoch();
  EXPECT_THAT([&] { hooks.before_epoch(); }, says("epoch 1 has not ended; call after_epoch()"));
  EXPECT_THAT([&] { hooks.resume(); }, says("the run has begun"));
  hooks.before_iter();
  EXPECT_THAT([&] { hooks.before_iter(); }, says("iteration 1 has not ended; call after_iter()"));
  EXPECT_THAT([&] { hooks.after_epoch(); }, says("iteration 1 has not ended"));
  EXPECT_THAT([&] { (void)hooks.validation(); }, says("iteration 1 has not ended"));
  EXPECT_THAT([&] { hooks.after_train(); }, says("iteration 1 has not ended"));
  hooks.after_step();
  EXPECT_THAT([&] { hooks.after_step(); }, says("iteration 1 already had its step"));
  hooks.after_iter();
  {
    LoopEvaluation pass = hooks.validation();
    EXPECT_THAT([&] { hooks.after_step(); }, says("a validation or test is running"));
    EXPECT_THAT([&] { (void)hooks.validation(); }, says("a validation or test is running"));
    EXPECT_THAT([&] { hooks.after_train(); }, says("a validation or test is running"));
    pass.finish({});
    EXPECT_THAT([&] { pass.finish({}); }, says("finish: was already called"));
  }
  hooks.after_epoch();
  hooks.after_train();
  EXPECT_THAT([&] { hooks.after_train(); }, says("was already called"));
  EXPECT_THAT([&] { hooks.after_iter(); }, says("after_train() ended this run"));
  hooks.test([] { return Scalars(); });  // after training is where a test belongs
}

TEST(LoopHooks, ALoopThatForgetsTheStepsIsToldAtItsFirstEpochOrValidation) {
  torch::nn::Linear net(1, 1);
  const auto says_so = ThrowsMessage<Error>(HasSubstr("call after_step() after optimizer.step()"));
  LoopHooks hooks = make_hooks(kEma, net);
  hooks.after_iter();
  EXPECT_THAT([&] { (void)hooks.validation(); }, says_so);
  EXPECT_THAT([&] { hooks.after_epoch(); }, says_so);
  EXPECT_THAT([&] { hooks.after_train(); }, says_so);
  LoopHooks gathering = make_hooks(kEma, net, LoopHooksSettings().accumulative_counts(2));
  gathering.after_iter();
  gathering.after_epoch();  // one iteration is less than a step takes
}

TEST(LoopHooks, ALoopOfIterationsHasNoEpochs) {
  Recorded loop(LoopHooksSettings().max_iters(2));
  EXPECT_THAT([&] { loop.hooks.before_epoch(); },
              ThrowsMessage<Error>(HasSubstr("counts iterations")));
  EXPECT_THAT([&] { loop.hooks.after_epoch(); },
              ThrowsMessage<Error>(HasSubstr("counts iterations")));
}

TEST(LoopHooks, AnEndThatIsForgottenAndAnEpochOfAnotherLengthAreWarnedOf) {
  torch::nn::Linear net(1, 1);
  const auto lines = log_of([&] {
    LoopHooks hooks = make_hooks(kEma, net, LoopHooksSettings().max_epochs(2).epoch_length(3));
    iterate(hooks, net, 1);
    hooks.after_epoch();
  });
  EXPECT_THAT(lines, ElementsAre(HasSubstr("had 1 iterations, but epoch_length 3"),
                                 HasSubstr("after_train() was not called")));
}

// ---- configs that cannot work

TEST(LoopHooks, ABadConfigIsRefusedBeforeTraining) {
  torch::nn::Linear net(1, 1);
  const std::vector<std::pair<std::string, std::string>> cases{
      {"custom_hook: []", "did you mean 'custom_hooks'?"},
      {"custom_hooks: [{type: EMAHok}]", "did you mean 'EMAHook'?"},
      {"custom_hooks: [{type: EMAHook, momentm: 0.1}]", "did you mean 'momentum'?"},
      {"custom_hooks: [{type: EMAHook, momentum: 2}]", "in (0, 1)"},
      {"custom_hooks: [{type: EMAHook}, {type: EMAHook}]", "a unique 'name'"},
      {"custom_hooks: [{type: CheckpointHook}]", "set work_dir"},
      {"custom_hooks: [{type: ParamSchedulerHook}]", "remove the hook"},
      {"custom_hooks: [{type: PreciseBNHook}]", "training_forward"},
      {"work_dir: /proc/nowhere\ncustom_hooks: [{type: LoggerHook}]", "cannot be written"},
      {"max_iters: 0", "at least 1"},
      {"default_hooks: [1]", "default_hooks"},
  };
  for (const auto& [text, says] : cases) {
    const std::string config = text;
    EXPECT_THAT([&] { make_hooks(config, net); }, ThrowsMessage<ConfigError>(HasSubstr(says)))
        << text;
  }
  EXPECT_THAT([&] { LoopHooks hooks("/nowhere/averaging.yaml", net); },
              ThrowsMessage<ConfigError>(HasSubstr("/nowhere/averaging.yaml: no such file")));
  EXPECT_THROW(make_hooks("plugins: ./nothing.so", net), PluginError);
}

TEST(LoopHooks, PluginsOfTheFileBringHooksAndAverages) {
  const std::string folder = new_folder("plugins");
  fs::create_directories(folder);
  fs::copy_file(std::string(POLYAK_PLUGIN_DIR) + "/libgood_plugin.so", folder + "/libmine.so");
  std::ofstream(folder + "/averaging.yaml") << "plugins: [./libmine.so, polyak_hooks]\n"
                                               "custom_hooks:\n"
                                               "  - {type: GreetingHook}\n"
                                               "  - {type: EMAHook, ema_type: HalfWay}\n";
  torch::nn::Linear net(1, 1);
  LoopHooks hooks(folder + "/averaging.yaml", net);
  iterate(hooks, net, 4);
  iterate(hooks, net, 8);
  EXPECT_EQ(value_of(*hooks.average()), 6);
  hooks.after_train();
}

// ---- averages, logs, other hooks

TEST(LoopHooks, GivesTheSameBitsAsTheAverageInCode) {
  const auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  LoopHooks hooks =
      make_hooks("custom_hooks: [{type: EMAHook, ema_type: CosineEMA, momentum: 0.1}]", net,
                 LoopHooksSettings().max_epochs(2).epoch_length(20).accumulative_counts(2));
  CosineEMA in_code(ModelRef(net), CosineEMAOptions().momentum(0.1).max_iters(20));
  for (int i = 0; i < 40; ++i) {
    net->forward(at::randn({5, 3})).backward();
    if (i % 2 == 1) {
      optimizer.step();
      optimizer.zero_grad();
      in_code.update_parameters(ModelRef(net));
      hooks.after_step();
    }
    hooks.after_iter();
    if (i % 20 == 19) hooks.after_epoch();
  }
  hooks.after_train();
  EXPECT_EQ(hooks.average()->steps(), 20);
  expect_same(hooks.average()->state(), in_code.state());
}

TEST(LoopHooks, LogsWhatTheLoopTells) {
  torch::nn::Linear net(1, 1);
  torch::optim::SGD optimizer(net->parameters(), 0.125);
  LoopHooks hooks =
      make_hooks("custom_hooks: [{type: RuntimeInfoHook}, {type: LoggerHook, interval: 1}]", net,
                 LoopHooksSettings().optimizer(optimizer));
  const auto lines = log_of([&] {
    hooks.after_step();
    hooks.after_iter({{"loss", 0.5}});
    hooks.after_epoch();
    hooks.validate([] { return Scalars{{"accuracy", 0.75}}; });
    hooks.after_train();
  });
  EXPECT_THAT(lines,
              ElementsAre(AllOf(HasSubstr("Epoch(train) "), HasSubstr("[1]"),
                                HasSubstr("lr: 1.2500e-01"), HasSubstr("loss: 0.5000")),
                          AllOf(HasSubstr("Epoch(val) [1]"), HasSubstr("accuracy: 0.7500"))));
}

TEST(LoopHooks, PreciseStatisticsComeFromTheLoopsForwardPasses) {
  const auto net = std::make_shared<Net>();
  int64_t asked = 0;
  LoopHooks hooks = make_hooks(
      "custom_hooks: [{type: EMAHook, momentum: 0.5}, {type: PreciseBNHook, num_samples: 5}]", net,
      LoopHooksSettings().training_forward([&](int64_t num_samples) {
        asked += num_samples;
        net->forward(at::full({5, 3}, 2.0));
      }));
  iterate(hooks, net, 1);
  hooks.validate([&] {
    // Weights and bias are 1, so each feature is 3 * 2 + 1.
    EXPECT_EQ(net->norm->running_mean[0].item<float>(), 7);
    return Scalars();
  });
  EXPECT_EQ(asked, 5);
  EXPECT_EQ(net->norm->running_mean[0].item<float>(), 1) << "the raw model's stay";
}

TEST(LoopHooks, PreciseStatisticsOfAListOfTensorsAreRefused) {
  const ModelRef list({{"weight", at::zeros({2})}});
  EXPECT_THAT(
      [&] {
        make_hooks("custom_hooks: [{type: PreciseBNHook}]", list,
                   LoopHooksSettings().training_forward([](int64_t) {}));
      },
      ThrowsMessage<ConfigError>(AllOf(HasSubstr("BatchNorm"), HasSubstr("list of tensors"))));
}

TEST(LoopHooks, AMessageThatNobodyCanReadEndsNothing) {
  std::fflush(stderr);
  const int before = ::dup(STDERR_FILENO);
  const int full = ::open("/dev/full", O_WRONLY);
  ::dup2(full, STDERR_FILENO);
  EXPECT_NO_THROW(log_warning("a warning"));
  ::dup2(before, STDERR_FILENO);
  ::close(before);
  ::close(full);
  std::clearerr(stderr);
}

// ---- threads

TEST(LoopHooks, OtherThreadsMayWatchAndStop) {
  torch::nn::Linear net(1, 1);
  LoopHooks hooks = make_hooks(kEma, net);
  std::thread watcher([&] {
    while (hooks.steps_done() < 3 || hooks.iterations_done() < 3) std::this_thread::yield();
    hooks.request_stop();
  });
  for (int i = 0; !hooks.stop_requested(); ++i) iterate(hooks, net, i);
  watcher.join();
  EXPECT_GE(hooks.iterations_done(), 3);
  hooks.after_train();
}

}  // namespace
}  // namespace polyak::test
