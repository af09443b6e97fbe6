// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/average_state.h"

#include <gmock/gmock.h>

#include "support/saved_states.h"

namespace polyak::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

std::vector<std::string> names_of(const std::vector<NamedTensor>& tensors) {
  std::vector<std::string> names;
  for (const NamedTensor& item : tensors) names.push_back(item.name);
  return names;
}

/// A bfloat16 model whose average has all three kinds of tensors.
class StateTest : public ::testing::Test {
 protected:
  void step(int number) {
    net_.step(number);
    average_->update_parameters(net_);
  }
  const StateCase case_{"ExponentialMovingAverage", at::kBFloat16, "compensated", true};
  NumbersNet net_{case_.dtype};
  std::shared_ptr<AveragedModel> average_ = case_.build(net_);
};

TEST(AverageState, ANewAverageOfANewModelGoesOnWithTheSameBits) {
  for (const StateCase& kept : state_cases()) {
    expect_exact_continuation(kept, [](const AverageState& state) { return state.clone(); });
  }
}

TEST_F(StateTest, HoldsTheRuleItsOptionsAndWhatTheModelsDtypeLoses) {
  for (int i = 0; i < 3; ++i) step(i);
  const AverageState state = average_->state_dict();
  EXPECT_EQ(state.rule, "ExponentialMovingAverage");
  EXPECT_EQ(state.options.at("momentum").as_double(), 0.3);
  EXPECT_EQ(state.steps, 3);
  EXPECT_THAT(names_of(state.values), ElementsAre("weight", "bias", "mean", "count"));
  EXPECT_THAT(names_of(state.exact), ElementsAre("weight", "bias", "mean"));
  EXPECT_THAT(names_of(state.compensation), ElementsAre("weight", "bias", "mean"));
  EXPECT_EQ(state.values[0].tensor.scalar_type(), at::kBFloat16);
  EXPECT_EQ(state.exact[0].tensor.scalar_type(), at::kFloat);
  EXPECT_EQ(state.compensation[0].tensor.scalar_type(), at::kShort);

  NumbersNet plain(at::kFloat);
  const AverageState in_one_dtype = ExponentialMovingAverage(plain, ema(0.3)).state_dict();
  EXPECT_TRUE(in_one_dtype.exact.empty());
  EXPECT_TRUE(in_one_dtype.compensation.empty());
}

TEST_F(StateTest, FollowsTheAverageWhereItsCloneKeepsTheMoment) {
  step(0);
  step(1);
  const AverageState handles = average_->state_dict();
  const AverageState copies = handles.clone();
  const std::string before = bits_of(copies.exact[0].tensor);
  step(2);
  EXPECT_EQ(bits_of(copies.exact[0].tensor), before);
  EXPECT_NE(bits_of(handles.exact[0].tensor), before);

  EXPECT_TRUE(average_->load_state_dict(copies).clean());  // back to that moment
  EXPECT_EQ(average_->steps(), 2);
  EXPECT_EQ(bits_of(average_->state_dict().exact[0].tensor), before);
}

TEST_F(StateTest, LoadedIntoItsOwnAverageChangesNothing) {
  for (int i = 0; i < 4; ++i) step(i);
  const auto twin = case_.build(net_);
  twin->load_state_dict(average_->state_dict().clone());
  EXPECT_TRUE(average_->load_state_dict(average_->state_dict()).clean());
  expect_same_bits(*average_, *twin);
}

TEST_F(StateTest, OfNoUpdateIsACopyAndTheNextUpdateCopies) {
  net_.step(1);
  const AverageState state = average_->state_dict().clone();
  EXPECT_EQ(state.steps, 0);
  NumbersNet other(case_.dtype);
  const auto loaded = case_.build(other);
  EXPECT_TRUE(loaded->load_state_dict(state).clean());
  expect_same_bits(*average_, *loaded);
  other.step(2);
  loaded->update_parameters(other);
  EXPECT_EQ(bits_of(loaded->state()[0].tensor), bits_of(other.named_parameters()["weight"]));
}

TEST_F(StateTest, WhatDoesNotFitIsReportedAndTheRestTaken) {
  for (int i = 0; i < 3; ++i) step(i);
  AverageState state = average_->state_dict().clone();
  state.values.erase(state.values.begin() + 1);  // bias
  state.values.push_back({"head", at::zeros({1})});
  state.exact[0].tensor = at::zeros({7, 5});
  NumbersNet other(case_.dtype);
  const auto loaded = case_.build(other);
  const LoadReport report = loaded->load_state_dict(state);
  EXPECT_THAT(report.missing, ElementsAre("bias"));
  EXPECT_THAT(report.unexpected, ElementsAre("head"));
  EXPECT_THAT(report.mismatched, ElementsAre("weight [7, 5] instead of [5, 7]"));
  EXPECT_EQ(loaded->steps(), 3);
  EXPECT_EQ(bits_of(loaded->named_averages()["mean"]), bits_of(average_->named_averages()["mean"]));
}

TEST_F(StateTest, OfAnotherRuleIsTakenWithAWarning) {
  step(0);
  AverageState state = average_->state_dict().clone();
  NumbersNet other(case_.dtype);
  StateCase mean = case_;
  mean.rule = "StochasticWeightAverage";
  const auto loaded = mean.build(other);
  const auto lines = log_of([&] { EXPECT_TRUE(loaded->load_state_dict(state).clean()); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr("made by ExponentialMovingAverage"));
  EXPECT_EQ(loaded->weight(1), 0.5);
  state.rule.clear();  // a state whose rule is not known
  EXPECT_TRUE(log_of([&] { loaded->load_state_dict(state); }).empty());
}

TEST_F(StateTest, WithANegativeCountIsRefusedBeforeAnythingChanges) {
  step(0);
  AverageState state = average_->state_dict().clone();
  state.steps = -1;
  state.values[0].tensor.fill_(9);
  EXPECT_THAT([&] { average_->load_state_dict(state); },
              ThrowsMessage<Error>(HasSubstr("steps is -1")));
  EXPECT_EQ(average_->steps(), 1);
  EXPECT_NE(average_->state()[0].tensor[0][0].item<float>(), 9);
}

}  // namespace
}  // namespace polyak::test
