// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/run_loop.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "polyak/averaging/exponential_moving_average.h"
#include "polyak/runtime/runner.h"
#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

/// The least that a host writes: a model, hooks, and the loop.
struct Host : Runner {
  explicit Host(const RunLength& length = {}) { loop.set_length(length); }
  ModelRef model() override { return net; }
  const Progress& progress() const override { return loop.progress(); }
  HookList& hooks() override { return hook_list; }
  bool resuming() const override { return loop.resuming(); }
  void request_stop() override {}
  const Scalars& logged() const override { return loop.logged(); }
  Scalars validate(const std::string& suffix) override {
    return loop.measure_again(suffix).value();
  }

  torch::nn::Linear net{2, 1};
  HookList hook_list;
  RunLoop loop{*this};
};

/// Writes the points down, and does at one of them what a test wants.
struct Recorder : Hook {
  std::string name() const override { return "Recorder"; }
  void note(const std::string& point) {
    points.push_back(point);
    if (at_point) at_point(point);
  }
  void before_run(Runner&) override { note("before_run"); }
  void before_train(Runner&) override { note("before_train"); }
  void before_train_epoch(Runner&) override { note("before_epoch"); }
  void before_train_iter(Runner&, int64_t batch) override {
    note(fmt::format("before_iter {}", batch));
  }
  void after_train_iter(Runner&, int64_t batch, const Scalars&) override {
    note(fmt::format("after_iter {}", batch));
  }
  void after_train_epoch(Runner&) override { note("after_epoch"); }
  void after_train(Runner&) override { note("after_train"); }
  void after_run(Runner&) override { note("after_run"); }
  void after_val_epoch(Runner& runner, Scalars& metrics) override {
    note(fmt::format("after_val {}", metrics.size()));
    if (!metrics.empty()) metrics.merge(runner.validate("_again"));
  }
  void after_load_checkpoint(Runner&, Value&) override { note("after_load"); }

  std::vector<std::string> points;
  std::function<void(const std::string&)> at_point;
};

std::shared_ptr<Recorder> record(Host& host) {
  auto recorder = std::make_shared<Recorder>();
  host.hook_list.add(recorder);
  return recorder;
}

RunLength epochs_of(int64_t epoch_length, int64_t max_epochs, int64_t accumulative_counts = 1) {
  RunLength length;
  length.epoch_length = epoch_length;
  length.max_epochs = max_epochs;
  length.max_iters = epoch_length * max_epochs;
  length.accumulative_counts = accumulative_counts;
  return length;
}

TEST(RunLoop, MakesUpWhatTheLoopLeavesOut) {
  for (const bool tell_all : {false, true}) {
    Host host(epochs_of(2, 1));
    const auto recorder = record(host);
    if (tell_all) {
      host.loop.before_run();
      host.loop.before_train();
      host.loop.before_epoch();
    }
    for (int i = 0; i < 2; ++i) {
      if (tell_all) host.loop.before_iter();
      host.loop.after_step();
      host.loop.after_iter({{"loss", i}});
      EXPECT_EQ(host.logged().at("loss"), i);
    }
    host.loop.after_epoch();
    host.loop.after_train();
    host.loop.after_run();
    EXPECT_THAT(
        recorder->points,
        ElementsAre("before_run", "before_train", "before_epoch", "before_iter 0", "after_iter 0",
                    "before_iter 1", "after_iter 1", "after_epoch", "after_train", "after_run"));
    EXPECT_EQ(host.progress().epoch, 1);
    EXPECT_EQ(host.progress().iter, 2);
    EXPECT_EQ(host.progress().optimizer_steps, 2);
  }
}

TEST(RunLoop, ALoopThatCountsIterationsIsOneEpochWhichTheEndCloses) {
  RunLength length;
  length.by_epoch = false;
  length.max_iters = 2;
  Host host(length);
  const auto recorder = record(host);
  for (int i = 0; i < 2; ++i) host.loop.after_iter();
  host.loop.after_train();
  EXPECT_THAT(recorder->points, ElementsAre("before_run", "before_train", "before_epoch",
                                            "before_iter 0", "after_iter 0", "before_iter 1",
                                            "after_iter 1", "after_epoch", "after_train"));
  EXPECT_EQ(host.progress().epoch, 0);
}

TEST(RunLoop, ACallAtTheWrongTimeThrowsAndChangesNothing) {
  const auto says = [](const char* text) { return ThrowsMessage<Error>(HasSubstr(text)); };
  Host host(epochs_of(2, 2));
  RunLoop& loop = host.loop;
  EXPECT_THAT([&] { loop.after_epoch(); }, says("after_epoch: no iteration was reported"));
  EXPECT_EQ(loop.phase(), RunLoop::Phase::built);
  loop.before_train();
  EXPECT_THAT([&] { loop.before_run(); }, says("before_run: was already called"));
  EXPECT_THAT([&] { loop.before_train(); }, says("before_train: was already called"));
  EXPECT_THAT([&] { loop.set_length({}); }, says("the run has begun"));
  Value nothing = Value::dict();
  EXPECT_THAT([&] { loop.restore(nothing, {}); }, says("the run has begun"));
  loop.before_epoch();
  EXPECT_THAT([&] { loop.before_epoch(); }, says("epoch 1 has not ended"));
  loop.before_iter();
  loop.after_step();
  EXPECT_THAT([&] { loop.after_step(); }, says("iteration 1 already had its step"));
  EXPECT_THAT([&] { loop.before_iter(); }, says("iteration 1 has not ended"));
  EXPECT_THAT([&] { loop.after_epoch(); }, says("iteration 1 has not ended"));
  EXPECT_THAT([&] { loop.after_train(); }, says("iteration 1 has not ended"));
  EXPECT_THAT([&] { loop.evaluate(Hook::Stage::val, [] { return Scalars(); }); },
              says("iteration 1 has not ended"));
  EXPECT_EQ(loop.phase(), RunLoop::Phase::in_iteration);
  EXPECT_EQ(loop.progress().optimizer_steps, 1);
  loop.after_iter();
  loop.after_train();
  EXPECT_THAT([&] { loop.after_train(); }, says("after_train: was already called"));
  EXPECT_THAT([&] { loop.after_iter(); }, says("after_train() ended this run"));
  EXPECT_EQ(loop.progress().iter, 1);
}

TEST(RunLoop, CountsWhatEndsAsFinishedInsideHooksToo) {
  Host host(epochs_of(1, 2));
  const auto recorder = record(host);
  std::vector<std::string> places;
  recorder->at_point = [&](const std::string& point) {
    if (point.rfind("after_", 0) != 0) return;
    const Value checkpoint = host.loop.begin_checkpoint({});
    EXPECT_EQ(checkpoint.at("meta").at("iter").as_int(), host.loop.place().iters);
    places.push_back(fmt::format("{}: {} of {}", point, checkpoint.at("meta").at("iter").as_int(),
                                 checkpoint.at("meta").at("epoch").as_int()));
  };
  host.loop.after_iter();
  host.loop.after_epoch();
  EXPECT_THAT(places, ElementsAre("after_iter 0: 1 of 0", "after_epoch: 1 of 1"));
  EXPECT_EQ(host.loop.place().iters, 1);
  EXPECT_EQ(host.loop.place().epochs, 1);
}

TEST(RunLoop, AHookThatThrowsEndsWhatEndedAndTheLoopMayGoOn) {
  Host host(epochs_of(2, 2));
  const auto recorder = record(host);
  recorder->at_point = [](const std::string& point) {
    if (point.rfind("after_", 0) == 0) throw std::runtime_error(point);
  };
  EXPECT_THROW(host.loop.after_iter(), std::runtime_error);
  EXPECT_EQ(host.loop.phase(), RunLoop::Phase::in_epoch);
  EXPECT_EQ(host.progress().iter, 1);
  EXPECT_THROW(host.loop.after_epoch(), std::runtime_error);
  EXPECT_EQ(host.progress().epoch, 1);
  EXPECT_EQ(host.loop.place().batch, 0);
  EXPECT_THROW(host.loop.after_train(), std::runtime_error);
  EXPECT_EQ(host.loop.phase(), RunLoop::Phase::ended);
}

TEST(RunLoop, HooksMayNotDriveTheLoopThatCallsThem) {
  Host host(epochs_of(2, 2));
  record(host)->at_point = [&](const std::string& point) {
    if (point == "after_iter 0") host.loop.after_iter();
  };
  EXPECT_THAT([&] { host.loop.after_iter(); },
              ThrowsMessage<Error>(HasSubstr("only the training loop may call it")));
  EXPECT_EQ(host.progress().iter, 1);
}

TEST(RunLoop, AnEvaluationMeasuresAgainForHooksAndLetsNothingElseHappen) {
  Host host(epochs_of(2, 2));
  const auto recorder = record(host);
  host.loop.after_iter();
  EXPECT_FALSE(host.loop.measure_again("").has_value()) << "nothing is measured";
  int measured = 0;
  const Scalars metrics = host.loop.evaluate(Hook::Stage::val, [&] {
    ++measured;
    EXPECT_THAT([&] { host.loop.after_iter(); },
                ThrowsMessage<Error>(HasSubstr("a validation or test is running")));
    return Scalars{{"value", measured}};
  });
  EXPECT_EQ(metrics, (Scalars{{"value", 1}, {"value_again", 2}}));
  EXPECT_TRUE(is_validated(host));
  EXPECT_THROW(host.loop.evaluate(Hook::Stage::val,
                                  []() -> Scalars { throw std::runtime_error("no data"); }),
               std::runtime_error);
  EXPECT_EQ(recorder->points.back(), "after_val 0");
  EXPECT_FALSE(host.loop.measure_again("").has_value());
  EXPECT_EQ(host.loop.phase(), RunLoop::Phase::in_epoch) << "as before the evaluation";
  host.loop.after_iter();
  EXPECT_FALSE(is_validated(host));
}

TEST(RunLoop, KnowsWhetherGradientsWaitForAStep) {
  Host host(epochs_of(4, 1, /*accumulative_counts=*/2));
  std::vector<bool> seen;
  record(host)->at_point = [&](const std::string& point) {
    if (point.rfind("after_iter", 0) == 0) seen.push_back(host.loop.place().between_steps);
  };
  EXPECT_FALSE(host.loop.place().between_steps);
  for (int i = 0; i < 4; ++i) {
    if (i % 2 == 1) host.loop.after_step();
    host.loop.after_iter();
    EXPECT_EQ(host.loop.place().between_steps, i % 2 == 0);
  }
  EXPECT_THAT(seen, ElementsAre(true, false, true, false));
}

// ---- checkpoints

/// A checkpoint of a run that stands at an iteration, with gradients of ones.
Value checkpoint_at(int64_t iters, const RunLength& length) {
  Host host(length);
  for (at::Tensor& parameter : host.net->parameters()) {
    parameter.mutable_grad() = at::ones_like(parameter);
  }
  for (int64_t i = 0; i < iters; ++i) {
    if ((i + 1) % length.accumulative_counts == 0) host.loop.after_step();
    host.loop.after_iter();
    const bool ended = length.by_epoch && host.loop.place().batch == length.epoch_length;
    if (ended && i + 1 < iters) host.loop.after_epoch();
  }
  host.run_info().set("best", 0.5);
  CheckpointParts parts;
  parts.gradients = host.loop.place().between_steps;
  return host.loop.begin_checkpoint(std::move(parts));
}

TEST(RunLoop, GoesOnWhereACheckpointStands) {
  const RunLength length = epochs_of(4, 3, /*accumulative_counts=*/2);
  Value checkpoint = checkpoint_at(7, length);
  Host host(length);
  host.loop.before_run();
  host.loop.restore(checkpoint, {});
  EXPECT_TRUE(host.resuming());
  EXPECT_EQ(host.progress().epoch, 1);
  EXPECT_EQ(host.progress().iter, 7);
  EXPECT_EQ(host.progress().optimizer_steps, 3);
  EXPECT_EQ(host.loop.place().batch, 3);
  EXPECT_TRUE(host.loop.place().between_steps);
  EXPECT_EQ(host.net->weight.grad()[0][0].item<double>(), 1);
  EXPECT_TRUE(at::equal(host.net->weight, checkpoint.at("state_dict").at("weight").as_tensor()));
  EXPECT_EQ(host.run_info().at("best").as_real(), 0.5);
}

TEST(RunLoop, TheLastIterationOfAnEpochLeadsToItsEndOrBehindIt) {
  const RunLength length = epochs_of(4, 3);
  for (const bool repeat : {true, false}) {
    Value checkpoint = checkpoint_at(4, length);
    Host host(length);
    host.loop.before_run();
    RestoreParts parts;
    parts.repeat_epoch_end = repeat;
    host.loop.restore(checkpoint, parts);
    EXPECT_EQ(host.progress().epoch, repeat ? 0 : 1);
    EXPECT_EQ(host.loop.place().batch, repeat ? 4 : 0);
  }
}

TEST(RunLoop, AnEpochOfAnotherLengthStartsOver) {
  Value checkpoint = checkpoint_at(6, epochs_of(4, 3));
  Host host(epochs_of(5, 3));
  host.loop.before_run();
  host.loop.restore(checkpoint, {});
  EXPECT_EQ(host.progress().epoch, 1);
  EXPECT_EQ(host.loop.place().batch, 0);
}

/// An average over the host's model, as a hook would add it.
std::shared_ptr<AveragedModel> add_average(Host& host) {
  auto average = std::make_shared<ExponentialMovingAverage>(
      host.model(),
      ExponentialMovingAverageOptions().momentum(0.3).precision(Precision::compensated));
  average->update_parameters(host.model());
  {
    const torch::NoGradGuard no_grad;
    host.net->weight.mul_(1.7);
  }
  average->update_parameters(host.model());
  host.averages().add({"", average});
  return average;
}

TEST(RunLoop, ARefusedCheckpointChangesNothing) {
  at::manual_seed(1);  // of weights whose average has a residual
  const RunLength length = epochs_of(4, 3, /*accumulative_counts=*/2);
  for (const bool by_hook : {true, false}) {
    Host host(length);
    const auto average = add_average(host);
    const at::Tensor weight = host.net->weight.detach().clone();
    const at::Tensor averaged = average->named_averages()["weight"].clone();
    const at::Tensor residual = average->compensation().front().tensor.clone();
    ASSERT_TRUE(residual.ne(0).any().item<bool>());
    host.run_info().set("best", 0.25);
    record(host)->at_point = [&](const std::string& point) {
      if (point != "after_load") return;
      average->load_state({{"weight", at::zeros_like(averaged)}}, 9);  // as an EMAHook does
      if (by_hook) throw CheckpointError("this hook refuses it");
    };
    host.loop.before_run();
    Value checkpoint = checkpoint_at(7, length);
    RestoreParts parts;
    parts.load = [&] {
      EXPECT_EQ(host.progress().iter, 7);
      throw CheckpointError("the optimizer refuses it");
    };
    EXPECT_THAT([&] { host.loop.restore(checkpoint, parts); },
                ThrowsMessage<CheckpointError>(HasSubstr("refuses it")));
    EXPECT_TRUE(at::equal(host.net->weight, weight));
    EXPECT_FALSE(host.net->weight.grad().defined());
    EXPECT_TRUE(at::equal(average->named_averages()["weight"], averaged));
    EXPECT_TRUE(at::equal(average->compensation().front().tensor, residual));
    EXPECT_EQ(average->steps(), 2);
    EXPECT_FALSE(host.resuming());
    EXPECT_EQ(host.progress().iter, 0);
    EXPECT_EQ(host.progress().optimizer_steps, 0);
    EXPECT_EQ(host.loop.place().batch, 0);
    EXPECT_EQ(host.run_info().at("best").as_real(), 0.25);
    host.loop.after_iter();  // and the run may begin from scratch
    EXPECT_EQ(host.progress().iter, 1);
  }
}

TEST(RunLoop, GradientsOfAnotherModelAreRefusedBeforeAnyHookSeesTheCheckpoint) {
  const RunLength length = epochs_of(4, 3, /*accumulative_counts=*/2);
  Value checkpoint = checkpoint_at(7, length);
  checkpoint.at("polyak").at("gradients").set("other", at::ones({1}));
  Host host(length);
  const auto recorder = record(host);
  host.loop.before_run();
  recorder->points.clear();
  EXPECT_THAT([&] { host.loop.restore(checkpoint, {}); },
              ThrowsMessage<CheckpointError>(HasSubstr("only 2 of 3 belong to the model")));
  EXPECT_THAT(recorder->points, IsEmpty());
}

}  // namespace
}  // namespace polyak::test
