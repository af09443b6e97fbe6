// SPDX-License-Identifier: Apache-2.0
// Rules apart from models: their weights are functions of a clock.
#include <gtest/gtest.h>

#include <cmath>

#include "polyak/averaging/averages.h"

namespace polyak {
namespace {

TEST(Rules, GiveTheirWeightsWithoutAModel) {
  EXPECT_DOUBLE_EQ(ExponentialMovingAverageOptions().momentum(0.25).weight(Clock(7)), 0.25);
  EXPECT_DOUBLE_EQ(MomentumAnnealingEMAOptions().momentum(0.01).weight(Clock(100)), 0.5);
  EXPECT_DOUBLE_EQ(MomentumAnnealingEMAOptions().momentum(0.01).weight(Clock(1000000)), 0.01);
  EXPECT_DOUBLE_EQ(ExpMomentumEMAOptions().momentum(0.1).gamma(10).weight(Clock(9)),
                   0.9 * std::exp(-1.0) + 0.1);
  EXPECT_DOUBLE_EQ(StochasticWeightAverageOptions().interval(3).weight(Clock(6)), 1.0 / 3);
  EXPECT_DOUBLE_EQ(CosineEMAOptions().momentum(0.5).max_iters(10).weight(Clock(5)), 0.25);
}

TEST(Rules, OfTheRunsLengthTakeItFromTheClockWhereNoOptionSaysIt) {
  Clock clock(5);
  clock.run_length = 10;
  EXPECT_DOUBLE_EQ(CosineEMAOptions().momentum(0.5).weight(clock), 0.25);
  CosineEMAOptions options;
  options.set_run_length(10);
  EXPECT_EQ(options.max_iters(), 10);
  options.set_run_length(20);
  EXPECT_EQ(options.max_iters(), 10) << "an option that is set stays";
}

TEST(Rules, JudgeAStallByTheWeightThatLasts) {
  EXPECT_DOUBLE_EQ(ExpMomentumEMAOptions().momentum(0.01).lasting_weight(), 0.01);
  EXPECT_DOUBLE_EQ(MomentumAnnealingEMAOptions().momentum(0.01).lasting_weight(), 0.01);
  EXPECT_DOUBLE_EQ(ExponentialMovingAverageOptions().momentum(0.1).lasting_weight(), 0.1);
}

TEST(Rules, HaveANameAndASentenceInTheRegistry) {
  Catalog catalog;
  register_average<CosineEMA>(catalog);
  const auto& averages = catalog.of<AveragedModel>();
  EXPECT_TRUE(averages.contains("CosineEMA"));
  EXPECT_EQ(averages.describe("CosineEMA").doc, CosineEMAOptions::kDoc);
}

}  // namespace
}  // namespace polyak
