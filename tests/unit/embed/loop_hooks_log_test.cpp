// SPDX-License-Identifier: Apache-2.0
// What the log says of a loop of one's own: right, or nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "polyak/config/load.h"
#include "polyak/polyak.h"
#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

void wait(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

/// A number of a line; -1 where it is not there.
double number_in(const std::string& line, const std::string& name) {
  const size_t at = line.find("  " + name + ": ");
  return at == std::string::npos ? -1 : std::stod(line.substr(at + name.size() + 4));
}

struct Timed {
  explicit Timed(const LoopHooksSettings& options, const std::string& more = "")
      : hooks(LoopHooks::from_config(
            parse_config("custom_hooks: [{type: LoggerHook, interval: 1}" + more + "]"), net,
            LoopHooksSettings(options).optimizer(optimizer))) {}
  /// An iteration as a plain loop tells it.
  void iterate(int milliseconds, bool step = true) {
    wait(milliseconds);
    if (step) hooks.after_step();
    hooks.after_iter({{"loss", 0.5}});
  }
  torch::nn::Linear net{1, 1};
  torch::optim::SGD optimizer{net->parameters(), 0.125};
  LoopHooks hooks;
};

constexpr const char* kTimer = ", {type: IterTimerHook}";

TEST(LoopLog, TheRateIsThereWithoutAnotherHook) {
  Timed run(LoopHooksSettings().max_iters(3));
  EXPECT_THAT(log_of([&] { run.iterate(0); }), Each(HasSubstr("lr: 1.2500e-01")));
}

TEST(LoopLog, EtaIsByAClockOfItsOwnAndAbsentBeforeAnythingWasTimed) {
  for (const auto& options :
       {LoopHooksSettings().max_iters(1002), LoopHooksSettings().max_epochs(501).epoch_length(2)}) {
    Timed run(options);
    const auto lines = log_of([&] {
      run.iterate(20);
      run.iterate(20);
    });
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_THAT(lines[0], Not(HasSubstr("eta"))) << "where it began was not seen";
    EXPECT_THAT(lines[1], Not(HasSubstr("eta: 0:00:00")));
    EXPECT_THAT(lines[1], HasSubstr("eta: 0:00:")) << "20 s and what the machine adds";
  }
}

TEST(LoopLog, EtaLeavesValidationsOutAndCountsIterationsThatAccumulate) {
  Timed run(LoopHooksSettings().max_iters(1003).accumulative_counts(2));
  const auto lines = log_of([&] {
    run.iterate(1, /*step=*/false);
    run.iterate(1);
    run.hooks.validate([] {
      wait(300);
      return Scalars{};
    });
    run.iterate(1, /*step=*/false);
  });
  EXPECT_THAT(lines.back(), HasSubstr("eta: 0:00:")) << "the validation would make it minutes";
}

TEST(LoopLog, EtaIsAbsentWhereNobodyStatesALengthOrTheLoopIsLonger) {
  for (const auto& options : {LoopHooksSettings(), LoopHooksSettings().max_iters(1)}) {
    Timed run(options);
    const auto lines = log_of([&] {
      for (int i = 0; i < 3; ++i) run.iterate(1);
    });
    ASSERT_EQ(lines.size(), 3U);
    EXPECT_THAT(lines, Each(Not(HasSubstr("eta"))));
  }
}

TEST(LoopLog, TimesOfAPlainLoopAreFromEndToEndWithoutWhatNobodySaw) {
  Timed run(LoopHooksSettings().max_epochs(2).epoch_length(2), kTimer);
  const auto lines = log_of([&] {
    for (int epoch = 0; epoch < 2; ++epoch) {
      run.iterate(20);
      run.iterate(20);
      run.hooks.after_epoch();
    }
  });
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_THAT(lines, Each(Not(HasSubstr("data_time"))));
  EXPECT_EQ(number_in(lines[0], "time"), -1);
  EXPECT_GE(number_in(lines[1], "time"), 0.019);
}

TEST(LoopLog, WithBeginsBothTimesAreRight) {
  Timed run(LoopHooksSettings().max_epochs(1).epoch_length(2), kTimer);
  const auto lines = log_of([&] {
    run.hooks.before_epoch();
    for (int i = 0; i < 2; ++i) {
      wait(20);  // for the batch
      run.hooks.before_iter();
      run.iterate(20);
    }
  });
  ASSERT_EQ(lines.size(), 2U);
  for (const std::string& line : lines) {
    EXPECT_GE(number_in(line, "data_time"), 0.019);
    EXPECT_GE(number_in(line, "time"), number_in(line, "data_time") + 0.019);
  }
}

TEST(LoopLog, TheFirstBatchsWaitIsAbsentWhereOnlyIterationsBegin) {
  Timed run(LoopHooksSettings().max_iters(2), kTimer);
  const auto lines = log_of([&] {
    for (int i = 0; i < 2; ++i) {
      wait(20);
      run.hooks.before_iter();
      run.iterate(1);
    }
  });
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(number_in(lines[0], "data_time"), -1);
  EXPECT_GE(number_in(lines[1], "data_time"), 0.019);
}

TEST(LoopLog, AValidationInsideAnEpochIsNoPartOfAnIterationsTime) {
  Timed run(LoopHooksSettings().max_iters(3), kTimer);
  const auto lines = log_of([&] {
    run.iterate(1);
    run.hooks.validate([] {
      wait(300);
      return Scalars{};
    });
    run.iterate(1);
  });
  EXPECT_LT(number_in(lines.back(), "time"), 0.29);
}

TEST(LoopLog, TheAveragesOfALoopFollowACastOfItsModel) {
  torch::nn::Linear net(1, 1);
  const auto fill = [&](double value) {
    const torch::NoGradGuard no_grad;
    for (at::Tensor& parameter : net->parameters()) parameter.fill_(value);
  };
  fill(0);
  LoopHooks hooks =
      LoopHooks::from_config(parse_config("custom_hooks: [{type: EMAHook, momentum: 0.5}]"), net);
  hooks.after_step();
  hooks.after_iter();
  net->to(at::kDouble);
  fill(1.0 / 3);
  hooks.after_step();
  hooks.after_iter();
  hooks.validate([&] {
    EXPECT_EQ(net->weight.item<double>(), 1.0 / 6);
    return Scalars{};
  });
  EXPECT_EQ(net->weight.item<double>(), 1.0 / 3);
  hooks.after_train();
}

/// A loop with an average, and a weight that a loss follows.
struct Diverging {
  explicit Diverging(const std::string& hooks_text)
      : hooks(LoopHooks::from_config(parse_config(hooks_text), net,
                                     LoopHooksSettings().max_iters(6).optimizer(optimizer))) {}
  std::vector<std::string> iterate(double value) {
    return log_of([&] {
      {
        const torch::NoGradGuard no_grad;
        net->weight.fill_(value);
      }
      hooks.after_step();
      hooks.after_iter({{"loss", value}, {"loss_cls", value}, {"accuracy", std::nan("")}});
    });
  }
  torch::nn::Linear net{1, 1};
  torch::optim::SGD optimizer{net->parameters(), 0.125};
  LoopHooks hooks;
};

TEST(LoopLog, TheFirstLossThatIsNotFiniteIsNamedAtOnceAndOnce) {
  Diverging run("{}");
  EXPECT_TRUE(run.iterate(0.5).empty()) << "an accuracy may be what it likes";
  const auto lines = run.iterate(INFINITY);
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("iteration 2"), HasSubstr("loss is inf, loss_cls is inf"),
                              HasSubstr("lr 0.125"), HasSubstr("lower the learning rate")));
  EXPECT_TRUE(run.iterate(std::nan("")).empty());
}

TEST(LoopLog, AnAverageThatIsNotFiniteIsNamedAtALogLineAndAtTheEnd) {
  Diverging run("custom_hooks: [{type: EMAHook, momentum: 0.5}, {type: LoggerHook, interval: 3}]");
  run.iterate(0.5);
  EXPECT_EQ(run.iterate(std::nan("")).size(), 1U) << "the loss alone: no log line is due";
  auto lines = run.iterate(0.5);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_THAT(lines[1], AllOf(HasSubstr("the average holds a NaN"), HasSubstr("iteration 3"),
                              HasSubstr("(weight)")));
  for (int i = 0; i < 3; ++i) lines = run.iterate(0.5);
  EXPECT_EQ(lines.size(), 1U) << "the line alone: it was said";
  lines = log_of([&] { run.hooks.after_train(); });
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_THAT(lines[0], HasSubstr("training ended with an average that holds a NaN"));
}

TEST(LoopLog, AnAverageThatSkipsWhatIsNotFiniteEndsWell) {
  Diverging run("custom_hooks: [{type: EMAHook, momentum: 0.5, skip_nonfinite: true}]");
  run.iterate(0.5);
  run.iterate(std::nan(""));
  EXPECT_TRUE(log_of([&] { run.hooks.after_train(); }).empty());
}

}  // namespace
}  // namespace polyak::test
