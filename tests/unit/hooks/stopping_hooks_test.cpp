// SPDX-License-Identifier: Apache-2.0
// Hooks that end training: EarlyStoppingHook, CheckInvalidLossHook.
#include <gmock/gmock.h>
#include <torch/nn/modules/linear.h>

#include <limits>
#include <vector>

#include "polyak/core/log.h"
#include "polyak/hooks/check_invalid_loss_hook.h"
#include "polyak/hooks/early_stopping_hook.h"
#include "support/fake_runner.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class EarlyStopping : public ::testing::Test {
 protected:
  /// The validation, from 1, after which training stops; 0: none of them.
  int64_t stops_after(const EarlyStoppingHookOptions& options, const std::vector<double>& values) {
    FakeRunner runner{net_};
    const auto hook = std::make_shared<EarlyStoppingHook>(options);
    runner.hooks_.add(hook);
    for (size_t i = 0; i < values.size(); ++i) {
      Scalars metrics{{options.monitor(), values[i]}};
      hook->after_val_epoch(runner, metrics);
      if (runner.stopped_) return static_cast<int64_t>(i) + 1;
    }
    return 0;
  }
  EarlyStoppingHookOptions accuracy() { return EarlyStoppingHookOptions().monitor("accuracy"); }

  torch::nn::Linear net_{1, 1};
};

TEST_F(EarlyStopping, CountsValidationsThatAreNoBetterAsMMEngineDoes) {
  const EarlyStoppingHookOptions options = accuracy().patience(2);
  EXPECT_EQ(stops_after(options, {50, 60, 60.05, 60.09}), 4);  // by less than min_delta
  EXPECT_EQ(stops_after(options, {50, 60, 60.05, 60.11, 60, 61}), 0);
  EXPECT_EQ(stops_after(options, {50, 40, 30}), 3);
  EXPECT_EQ(stops_after(accuracy().patience(1), {50, 50.1}), 0) << "a change of min_delta counts";
  EXPECT_EQ(stops_after(accuracy().patience(1).min_delta(0), {50, 50}), 0)
      << "with min_delta 0 an equal value is as good";
  EXPECT_EQ(stops_after(accuracy().patience(1).rule("less"), {50, 40, 45}), 3);
}

TEST_F(EarlyStopping, KnowsTheDirectionOfALoss) {
  const auto loss = EarlyStoppingHookOptions().monitor("loss").patience(2);
  EXPECT_EQ(stops_after(loss, {3, 2, 1}), 0);
  EXPECT_EQ(stops_after(loss, {1, 2, 3}), 3);
}

TEST_F(EarlyStopping, StopsAtAThresholdAndAtWhatIsNotFinite) {
  EXPECT_EQ(stops_after(accuracy().stopping_threshold(90.0), {80, 90, 91}), 3);
  EXPECT_EQ(stops_after(accuracy(), {80, kNan}), 2);
  EXPECT_EQ(stops_after(accuracy().check_finite(false).patience(9), {80, kNan, 81}), 0);
}

TEST_F(EarlyStopping, TheCountSurvivesAResume) {
  FakeRunner first{net_};
  EarlyStoppingHook before(accuracy().patience(3));
  for (const double value : {50, 40, 40}) {
    Scalars metrics{{"accuracy", value}};
    before.after_val_epoch(first, metrics);
  }
  FakeRunner second{net_};
  second.run_info() = first.run_info();
  EarlyStoppingHook after(accuracy().patience(3));
  Scalars metrics{{"accuracy", 49}};
  after.after_val_epoch(second, metrics);
  EXPECT_FALSE(first.stopped_);
  EXPECT_TRUE(second.stopped_);
}

TEST_F(EarlyStopping, TwoHooksCountApart) {
  FakeRunner runner{net_};
  std::vector<std::shared_ptr<EarlyStoppingHook>> hooks;
  for (int i = 0; i < 2; ++i) {
    hooks.push_back(std::make_shared<EarlyStoppingHook>(accuracy().patience(3)));
    runner.hooks_.add(hooks.back());
  }
  for (const double value : {50, 40, 40}) {
    Scalars metrics{{"accuracy", value}};
    for (const auto& hook : hooks) hook->after_val_epoch(runner, metrics);
  }
  EXPECT_FALSE(runner.stopped_);
}

TEST_F(EarlyStopping, AMissingMetricIsAWarningOrAnError) {
  FakeRunner runner{net_};
  Scalars metrics{{"loss", 1}};
  std::vector<std::string> lines;
  const LogSink before =
      set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  EarlyStoppingHook(accuracy()).after_val_epoch(runner, metrics);
  set_log_sink(before);
  EXPECT_THAT(
      lines, ElementsAre("EarlyStoppingHook: the validation gave no 'accuracy'; training goes on"));
  EXPECT_THAT([&] { EarlyStoppingHook(accuracy().strict(true)).after_val_epoch(runner, metrics); },
              ThrowsMessage<Error>(HasSubstr("gave no 'accuracy'")));
}

TEST_F(EarlyStopping, RefusesWhatCannotWork) {
  EXPECT_THAT([] { EarlyStoppingHook(EarlyStoppingHookOptions().monitor("height")); },
              ThrowsMessage<ConfigError>(
                  HasSubstr("rule: is required, as 'height' does not say which values")));
  EXPECT_THAT([&] { EarlyStoppingHook(accuracy().rule("larger")); },
              ThrowsMessage<ConfigError>(HasSubstr("rule")));
  EXPECT_THAT([&] { EarlyStoppingHook(accuracy().patience(0)); },
              ThrowsMessage<ConfigError>(HasSubstr("patience")));
}

TEST(CheckInvalidLoss, EndsTrainingAtTheNextCheck) {
  torch::nn::Linear net(1, 1);
  FakeRunner runner{net};
  CheckInvalidLossHook hook(CheckInvalidLossHookOptions().interval(2));
  hook.after_train_iter(runner, 0, {{"loss", kNan}});  // iteration 1
  runner.progress_.iter = 1;
  hook.after_train_iter(runner, 0, {{"loss", 1}, {"size", kNan}});
  EXPECT_THAT(
      [&] {
        hook.after_train_iter(runner, 0, {{"loss", kNan}});
      },
      ThrowsMessage<Error>(AllOf(HasSubstr("CheckInvalidLossHook: iteration 2: loss is"),
                                 HasSubstr("lower the learning rate"))));
}

}  // namespace
}  // namespace polyak::test
