// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>

#include <ATen/Functions.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/param_scheduler.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr double kRate = 0.1;

/// Schedules of one or a few units.
class ShortSchedules : public testing::Test {
 protected:
  ShortSchedules() { register_trainer(catalog_); }

  std::shared_ptr<ParamScheduler> start(const Node& config, int64_t epoch_length,
                                        int64_t max_epochs,
                                        const char* optimizer = "{type: SGD, lr: 0.1}") {
    optimizer_ = catalog_.of<Optimizer>().build(parse_config(optimizer), {{at::zeros({1})}});
    return catalog_.of<ParamScheduler>().build(
        config, {optimizer_.get(), epoch_length, max_epochs, max_epochs * epoch_length});
  }

  /// "key: text" of what has no effect in a run of 6 epochs of 3 batches.
  std::vector<std::string> doubts(const std::string& config) {
    std::vector<std::string> texts;
    const auto scheduler = start(parse_config(config), 3, 6);
    for (const auto& doubt : scheduler->doubts()) {
      texts.push_back(fmt::format("{}: {}", doubt.key, doubt.text));
    }
    return texts;
  }

  Catalog catalog_;
  std::shared_ptr<Optimizer> optimizer_;
};

TEST_F(ShortSchedules, GiveTheRatesOfTorchAndSayWhatNeverHappens) {
  std::ifstream file(POLYAK_GOLDEN_DIR "/schedules.json");
  const auto cases = nlohmann::json::parse(file);
  EXPECT_GT(cases.size(), 500U);
  for (const auto& item : cases) {
    const Node config = parse_config(item.at("config").dump());
    SCOPED_TRACE(item.dump());
    const auto scheduler =
        start(config, item.at("epoch_length").get<int64_t>(), item.at("max_epochs").get<int64_t>());
    const auto wanted = item.at("rates").get<std::vector<double>>();
    for (const double rate : wanted) {
      EXPECT_NEAR(optimizer_->lr(), rate, 1e-15);
      scheduler->step();
    }
    // What it says of itself agrees with these numbers.
    const std::string type = config.at("type").as_string();
    const bool silent = scheduler->doubts().empty();
    const double least = *std::min_element(wanted.begin(), wanted.end());
    const bool constant = least == *std::max_element(wanted.begin(), wanted.end());
    if (type == "LinearLR") {
      EXPECT_EQ(silent,
                std::abs(wanted.back() - kRate * config.at("end_factor").as_double()) < 1e-12);
    } else if (type == "SWALR") {
      EXPECT_EQ(silent, std::abs(wanted.back() - config.at("swa_lr").as_double()) < 1e-12);
    } else if (type == "StepLR") {
      EXPECT_EQ(silent, !constant);
    } else if (constant) {
      EXPECT_FALSE(silent);
    }
  }
}

TEST_F(ShortSchedules, GiveTheRatesOfMMEngine) {
  std::ifstream file(POLYAK_GOLDEN_DIR "/mmengine_schedules.json");
  const auto cases = nlohmann::json::parse(file);
  EXPECT_GT(cases.size(), 400U);
  for (const auto& item : cases) {
    SCOPED_TRACE(item.dump());
    const auto scheduler =
        start(parse_config(item.at("config").dump()), item.at("epoch_length").get<int64_t>(),
              item.at("max_epochs").get<int64_t>());
    for (const double rate : item.at("rates").get<std::vector<double>>()) {
      EXPECT_NEAR(optimizer_->lr(), rate, 1e-15);
      scheduler->step();
    }
  }
}

TEST_F(ShortSchedules, GiveTheMomentaOfMMEngine) {
  std::ifstream file(POLYAK_GOLDEN_DIR "/mmengine_momentum.json");
  const auto cases = nlohmann::json::parse(file);
  EXPECT_GT(cases.size(), 400U);
  for (const auto& item : cases) {
    SCOPED_TRACE(item.dump());
    const bool is_adam = item.at("optimizer") == "Adam";
    const auto scheduler =
        start(parse_config(item.at("config").dump()), item.at("epoch_length").get<int64_t>(),
              item.at("max_epochs").get<int64_t>(),
              is_adam ? "{type: Adam, lr: 0.1, betas: [0.9, 0.99]}"
                      : "{type: SGD, lr: 0.1, momentum: 0.9}");
    for (const double momentum : item.at("momenta").get<std::vector<double>>()) {
      EXPECT_NEAR(optimizer_->momentum(), momentum, 1e-15);
      scheduler->step();
    }
    EXPECT_EQ(optimizer_->lr(), kRate);
    const Value group = optimizer_->state_dict().at("param_groups").items().front();
    EXPECT_EQ(group.at("initial_momentum").as_real(), 0.9);
    EXPECT_EQ(group.at("momentum").as_real(), optimizer_->momentum());
    if (is_adam) {
      EXPECT_EQ(group.at("betas").items().back().as_real(), 0.99);
    }
  }
}

TEST_F(ShortSchedules, SchedulesOfMomentumSayMomentum) {
  EXPECT_THAT(doubts("{type: ConstantMomentum, factor: 1}"),
              ElementsAre("factor: is 1, so the momentum never changes"));
  EXPECT_THAT(doubts("{type: LinearMomentum, end: 1}"),
              ElementsAre("end: the schedule has only one unit of epochs, so the momentum stays at "
                          "momentum * start_factor; it reaches end_factor only with end: 2 or "
                          "more"));
}

TEST_F(ShortSchedules, WhatNeverHappensIsSaidOfTheOthersToo) {
  EXPECT_THAT(doubts("{type: ConstantLR, factor: 1}"),
              ElementsAre("factor: is 1, so the rate never changes"));
  EXPECT_THAT(
      doubts("{type: PolyLR, end: 12}"),
      ElementsAre("end: eta_min is not reached: the run has 6 of the schedule's 12 epochs"));
  EXPECT_THAT(
      doubts("{type: OneCycleLR, eta_max: 1, total_steps: 9}"),
      ElementsAre("total_steps: the cycle does not end: it takes 9 epochs, but the schedule "
                  "has 6"));
  EXPECT_THAT(
      doubts("{type: CosineRestartLR, periods: [2, 2], restart_weights: [1, 1], eta_min: 0}"),
      ElementsAre("periods: they end after 4 epochs, but the schedule has 6; from there on "
                  "the rate stays"));
  EXPECT_THAT(doubts("{type: OneCycleLR, eta_max: 1}"), IsEmpty());
  const auto refused = [&](const std::string& config) {
    EXPECT_THROW(doubts(config), ConfigError);
  };
  refused("{type: CosineRestartLR, periods: [2], eta_min: 0, eta_min_ratio: 0.1}");
  refused("{type: CosineRestartLR, periods: [2]}");
  refused("{type: CosineRestartLR, periods: [2, 2], eta_min: 0}");
  refused("{type: CosineRestartLR, periods: [], restart_weights: [], eta_min: 0}");
  refused("{type: ExponentialLR}");
  refused("{type: OneCycleLR, eta_max: 1, pct_start: 1.5}");
}

TEST_F(ShortSchedules, ALinearScheduleOfOneUnitSaysFromWhichEndOnItReachesItsFactor) {
  const std::string text =
      "end: the schedule has only one unit of epochs, so the rate stays at lr * start_factor; it "
      "reaches end_factor only with end: ";
  EXPECT_THAT(doubts("{type: LinearLR, end: 1}"), ElementsAre(text + "2 or more"));
  EXPECT_THAT(doubts("{type: LinearLR, begin: 3, end: 4}"), ElementsAre(text + "5 or more"));
  EXPECT_THAT(doubts("{type: LinearLR, end: 2}"), IsEmpty());
  EXPECT_THAT(doubts("{type: LinearLR, start_factor: 1, end_factor: 1, end: 1}"), IsEmpty());
  EXPECT_THAT(doubts("{type: LinearLR, end: 1, convert_to_iter_based: true}"), IsEmpty());
  EXPECT_THAT(
      doubts("{type: LinearLR, begin: 5, start_factor: 0.5}"),
      ElementsAre("end: end_factor is not reached: the run has 1 of the schedule's 1 epochs, "
                  "and ends with a rate of lr * 0.5"));
}

TEST_F(ShortSchedules, AScheduleLongerThanTheRunSaysHowFarItComes) {
  EXPECT_THAT(
      doubts("{type: LinearLR, start_factor: 0.5, end: 11}"),
      ElementsAre("end: end_factor is not reached: the run has 6 of the schedule's 11 epochs, "
                  "and ends with a rate of lr * 0.75"));
  EXPECT_THAT(doubts("{type: CosineAnnealingLR, T_max: 10}"),
              ElementsAre("T_max: eta_min is not reached: it takes 10 epochs, but the schedule has "
                          "6; 0.5 of lr - eta_min is left at its end"));
  EXPECT_THAT(doubts("{type: CosineAnnealingLR, by_epoch: false, end: 34}"),
              ElementsAre("end: eta_min is not reached: it takes 34 iterations, but the schedule "
                          "has 18; 0.5 of lr - eta_min is left at its end"));
  EXPECT_THAT(doubts("{type: CosineAnnealingLR}"), IsEmpty());
  EXPECT_THAT(doubts("{type: CosineAnnealingLR, begin: 2, T_max: 4}"), IsEmpty());
  EXPECT_THAT(doubts("{type: CosineAnnealingLR, end: 2}"), IsEmpty());
}

TEST_F(ShortSchedules, AScheduleThatDoesNotReachTheAveragesRateSaysSo) {
  EXPECT_THAT(doubts("{type: SWALR, swa_lr: 0.05, begin: 2}"),
              ElementsAre("anneal_epochs: swa_lr is not reached: it takes 10 epochs, but the "
                          "schedule has 4, and the first of them keeps the rate"));
  EXPECT_THAT(doubts("{type: SWALR, swa_lr: 0.05, begin: 2, anneal_epochs: 3}"), IsEmpty());
  EXPECT_THROW(doubts("{type: SWALR, swa_lr: 0.05, anneal_strategy: sine}"), ConfigError);
  EXPECT_THROW(doubts("{type: SWALR}"), ConfigError);
}

TEST_F(ShortSchedules, AScheduleThatNeverChangesTheRateSaysSo) {
  EXPECT_THAT(doubts("{type: StepLR, step_size: 6}"),
              ElementsAre("step_size: 6 epochs are not below the schedule's length, 6, so the rate "
                          "never changes"));
  EXPECT_THAT(doubts("{type: StepLR, step_size: 1, end: 1}"), testing::SizeIs(1));
  EXPECT_THAT(doubts("{type: StepLR, step_size: 5}"), IsEmpty());
  EXPECT_THAT(doubts("{type: StepLR, step_size: 3, end: 2, convert_to_iter_based: true}"),
              ElementsAre("step_size: 9 iterations are not below the schedule's length, 6, so the "
                          "rate never changes"));
  EXPECT_THAT(
      doubts("{type: MultiStepLR, milestones: [2, 6, 9]}"),
      ElementsAre("milestones: 6 is never reached: the schedule has 6 epochs, counted from 0",
                  "milestones: 9 is never reached: the schedule has 6 epochs, counted from 0"));
  EXPECT_THAT(doubts("{type: MultiStepLR, milestones: [1, 5]}"), IsEmpty());
  EXPECT_THAT(doubts("{type: MultiStepLR, milestones: []}"),
              ElementsAre("milestones: is empty, so the rate never changes"));
  EXPECT_THAT(doubts("{type: CosineAnnealingLR, end: 1}"),
              ElementsAre("end: the schedule has one unit of epochs, so the rate never changes"));
}

TEST_F(ShortSchedules, AScheduleThatBeginsAfterTheRunSaysSo) {
  const std::string text =
      "begin: the schedule begins after 6 epochs, but the run has 6, so it changes nothing";
  EXPECT_THAT(doubts("{type: StepLR, step_size: 1, begin: 6, end: 9}"), ElementsAre(text));
  EXPECT_THAT(doubts("{type: MultiStepLR, milestones: [1], begin: 6, end: 9}"), ElementsAre(text));
  EXPECT_THAT(doubts("{type: CosineAnnealingLR, begin: 6, end: 9}"), ElementsAre(text));
  EXPECT_THAT(doubts("{type: LinearLR, begin: 6, end: 9}"), ElementsAre(text));
}

}  // namespace
}  // namespace polyak
