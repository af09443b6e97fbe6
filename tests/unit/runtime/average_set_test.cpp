// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/average_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <cmath>
#include <utility>

#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::ThrowsMessage;

/// A model of one weight with averages of it in a set.
class AverageSetTest : public ::testing::Test {
 protected:
  std::shared_ptr<AveragedModel> add(const std::string& name, double momentum) {
    auto average = std::make_shared<ExponentialMovingAverage>(ModelRef(net_),
                                                              ema(momentum).skip_nonfinite(true));
    set_.add({name, average});
    return average;
  }
  void set_weight(double value) {
    const torch::NoGradGuard no_grad;
    for (const at::Tensor& parameter : net_->parameters()) parameter.fill_(value);
  }
  static float weight_of(const AveragedModel& average) {
    return average_of(average, "weight").item<float>();
  }

  torch::nn::Linear net_{1, 1};
  std::vector<std::pair<std::string, double>> logged_;
  AverageSet set_{
      [this] { return ModelRef(net_); },
      [this](const std::string& name, double value) { logged_.emplace_back(name, value); }};
};

TEST_F(AverageSetTest, MakesPostedUpdatesAtTheFlushAndLogsThemInTheOrderOfTheirTurns) {
  const auto first = add("", 0.5), slow = add("slow", 0.25);
  set_weight(0);
  for (const auto& average : {slow, first}) set_.post(*average, true);
  EXPECT_EQ(first->steps(), 0);
  EXPECT_TRUE(set_.is_due(*first));
  set_.flush();
  EXPECT_FALSE(set_.is_due(*first));
  set_weight(1);
  logged_.clear();
  for (const auto& average : {slow, first}) set_.post(*average, true);
  set_.flush();
  EXPECT_THAT(logged_, ElementsAre(Pair("ema_momentum_slow", 0.25), Pair("ema_momentum", 0.5),
                                   Pair("ema_time_ms", Ge(0))));
  EXPECT_EQ(weight_of(*first), 0.5F);
  EXPECT_EQ(weight_of(*slow), 0.25F);
}

TEST_F(AverageSetTest, EveryReaderComesAfterWhatIsDue) {
  const auto average = add("a", 0.5), other = add("other", 0.5);
  const std::vector<std::pair<const char*, std::function<void()>>> readers{
      {"a loop",
       [&] {
         for (const NamedAverage& item : set_) EXPECT_TRUE(item.average);
       }},
      {"all", [&] { set_.all(); }},
      {"find", [&] { EXPECT_EQ(set_.find("a"), average); }},
      {"find of another", [&] { EXPECT_EQ(set_.find("b"), nullptr); }},
      {"add", [&] { add("c", 0.5); }},
      {"remove", [&] { set_.remove(*other); }}};
  int64_t made = 0;
  for (const auto& [reader, read] : readers) {
    SCOPED_TRACE(reader);
    set_.post(*average, true);
    EXPECT_EQ(average->steps(), made);
    read();
    EXPECT_EQ(average->steps(), ++made);
  }
}

TEST_F(AverageSetTest, ATurnWithoutAnUpdateChangesNothing) {
  const auto average = add("", 0.5);
  set_.post(*average, false);
  EXPECT_FALSE(set_.is_due(*average));
  set_.flush();
  EXPECT_EQ(average->steps(), 0);
  EXPECT_TRUE(logged_.empty());
}

TEST_F(AverageSetTest, ASecondTurnReplacesTheFirst) {
  const auto average = add("", 0.5);
  set_.post(*average, true);
  set_.post(*average, true);
  set_.flush();
  EXPECT_EQ(average->steps(), 1);
  set_.post(*average, true);
  set_.post(*average, false);
  set_.flush();
  EXPECT_EQ(average->steps(), 1);
}

TEST_F(AverageSetTest, LogsWhatWasSkippedOfAllThatTookATurn) {
  const auto bad = add("bad", 0.5), fine = add("fine", 0.5);
  set_weight(0);
  for (const auto& average : {bad, fine}) set_.post(*average, true);
  set_.flush();
  set_weight(std::nan(""));
  set_.post(*bad, true);
  set_.flush();
  set_weight(0);
  logged_.clear();
  set_.post(*bad, false);  // takes its turn without an update, beside one that has one
  set_.post(*fine, true);
  set_.flush();
  EXPECT_THAT(logged_, ElementsAre(Pair("ema_momentum_fine", 0.5), Pair("ema_time_ms", Ge(0)),
                                   Pair("ema_skipped_bad", 1)));
}

TEST_F(AverageSetTest, AnUpdateThatFailsIsNotTriedAgain) {
  const auto average = add("", 0.5);
  set_.post(*average, true);
  set_.flush();
  {
    const SwapGuard guard = average->swap(net_);
    set_.post(*average, true);
    EXPECT_THROW(set_.flush(), Error);
  }
  set_.flush();
  EXPECT_EQ(average->steps(), 1);
}

TEST_F(AverageSetTest, HoldsAnAverageOnceUnderItsLastName) {
  const auto average = add("a", 0.5);
  set_.add({"b", average});
  EXPECT_EQ(set_.size(), 1u);
  EXPECT_EQ(set_.find("a"), nullptr);
  EXPECT_EQ(set_.find("b"), average);
  set_.remove(*average);
  EXPECT_TRUE(set_.empty());
  set_.remove(*average);
}

TEST_F(AverageSetTest, RefusesWhatItDoesNotHold) {
  ExponentialMovingAverage stranger(net_, ema(0.5));
  EXPECT_THAT([&] { set_.post(stranger, true); }, ThrowsMessage<Error>(HasSubstr("not added")));
  EXPECT_THAT([&] { set_.add({"a", nullptr}); }, ThrowsMessage<Error>(HasSubstr("'a'")));
}

TEST_F(AverageSetTest, WhoeverLogsMayReadTheSet) {
  const auto average = std::make_shared<ExponentialMovingAverage>(ModelRef(net_), ema(0.5));
  int calls = 0;
  const AverageSet* read = nullptr;
  AverageSet set([this] { return ModelRef(net_); },
                 [&](const std::string&, double) {
                   ++calls;
                   read->flush();
                 });
  read = &set;
  set.add({"", average});
  set.post(*average, true);
  set.flush();
  EXPECT_EQ(calls, 2);  // the weight and the time
  EXPECT_EQ(average->steps(), 1);
}

TEST_F(AverageSetTest, WarnsOnceOfEachAverageThatIsNotFinite) {
  auto bad = std::make_shared<ExponentialMovingAverage>(ModelRef(net_), ema(0.5));
  auto worse = std::make_shared<ExponentialMovingAverage>(ModelRef(net_), ema(0.5));
  const auto fine = add("fine", 0.5);
  set_.add({"", bad});
  set_.add({"late", worse});
  const auto update = [&](double weight) {
    set_weight(weight);
    for (const auto& average : {bad, worse}) set_.post(*average, true);
    set_.post(*fine, true);
  };
  update(0);
  EXPECT_TRUE(log_of([&] { set_.warn_of_nonfinite(1); }).empty());
  update(std::nan(""));
  const std::vector<std::string> lines = log_of([&] { set_.warn_of_nonfinite(7); });
  ASSERT_EQ(lines.size(), 3U) << "two warnings, and what skip_nonfinite says of the third";
  EXPECT_THAT(lines[1], AllOf(HasSubstr("the average holds a NaN"), HasSubstr("iteration 7"),
                              HasSubstr("(weight)"), HasSubstr("skip_nonfinite: true")));
  EXPECT_THAT(lines[2], HasSubstr("the average 'late' holds"));
  EXPECT_TRUE(log_of([&] { set_.warn_of_nonfinite(8); }).empty());
}

}  // namespace
}  // namespace polyak::test
