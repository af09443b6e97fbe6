// SPDX-License-Identifier: Apache-2.0
// Averages that keep more than a weighted mean, that start elsewhere, or that write back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include <cmath>
#include <deque>
#include <sstream>

#include "polyak/averaging/average_state.h"
#include "polyak/polyak.h"
#include "unit/averaging/averaging_testing.h"

namespace polyak::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

at::Tensor weight_of(AveragedModel& average) {
  return average.named_averages()["weight"];
}

/// A model of one float64 number, which a test sets.
struct Number {
  explicit Number(double value = 0) { set(value); }
  void set(double value) {
    const torch::NoGradGuard no_grad;
    net->weight.fill_(value);
  }
  double get() const { return net->weight.item<double>(); }
  torch::nn::Linear net = [] {
    torch::nn::Linear linear(torch::nn::LinearOptions(1, 1).bias(false));
    linear->to(at::kDouble);
    return linear;
  }();
};

double value_of(AveragedModel& average) {
  return weight_of(average).item<double>();
}

TEST(SlidingWindow, IsTheMeanOfTheLastSnapshots) {
  Number model;
  SlidingWindowAverage average(
      model.net, SlidingWindowAverageOptions().window(3).interval(2).snapshot_every(2));
  std::deque<double> snapshots;
  for (int k = 0; k < 40; ++k) {
    model.set(std::sin(k));
    average.update_parameters(model.net);
    if (k % 4 == 0) snapshots.push_back(std::sin(k));
    if (snapshots.size() > 3) snapshots.pop_front();
    double mean = 0;
    for (const double value : snapshots) mean += value / static_cast<double>(snapshots.size());
    EXPECT_NEAR(value_of(average), mean, 1e-15) << k;
  }
}

TEST(SlidingWindow, DoesNotDriftInFloat32) {
  torch::nn::Linear net(torch::nn::LinearOptions(3, 1).bias(false));
  SlidingWindowAverage average(net, SlidingWindowAverageOptions().window(7));
  std::deque<at::Tensor> snapshots;
  at::manual_seed(3);
  const torch::NoGradGuard no_grad;
  for (int k = 0; k < 100000; ++k) {
    net->weight.copy_(at::randn({1, 3}) * 100);
    average.update_parameters(net);
    snapshots.push_back(net->weight.to(at::kDouble));
    if (snapshots.size() > 7) snapshots.pop_front();
  }
  at::Tensor mean = at::zeros({1, 3}, at::kDouble);
  for (const at::Tensor& snapshot : snapshots) mean += snapshot / 7;
  const at::Tensor error = (weight_of(average).to(at::kDouble) - mean).abs() / mean.abs();
  EXPECT_LT(error.max().item<double>(), 1e-6);
}

TEST(Bema, PublishesTheAverageAndItsDistanceFromTheFirstWeights) {
  Number model(5);
  BEMA average(model.net, BEMAOptions().lag(2).ema_power(0.5).bias_power(0.25).interval(2));
  double running = 0, first = 0, published = 5;
  for (int k = 0; k < 20; ++k) {
    const double now = std::cos(k) + k;
    model.set(now);
    average.update_parameters(model.net);
    const double age = 2 + (k + 1);
    if (k == 0) {
      running = first = published = now;
    } else if (k % 2 == 0) {
      running += std::pow(age, -0.5) * (now - running);
      published = running + std::pow(age, -0.25) * (now - first);
    }
    EXPECT_NEAR(value_of(average), published, 1e-12) << k;
  }
  const SwapGuard guard = average.swap(model.net);
  EXPECT_NEAR(model.get(), published, 1e-12) << "what is swapped in is what is published";
}

TEST(Bema, OfHalfPrecisionAndOfIntegersWorksToo) {
  torch::nn::Linear net(3, 2);
  net->to(at::kBFloat16);
  net->register_buffer("count", at::zeros({}, at::kLong));
  BEMA average(net);
  const torch::NoGradGuard no_grad;
  for (int k = 0; k < 3; ++k) {
    net->weight.add_(0.5);
    net->named_buffers()["count"].add_(1);
    average.update_parameters(net);
  }
  EXPECT_EQ(average.named_averages()["weight"].scalar_type(), at::kFloat);
  EXPECT_EQ(average.named_averages()["count"].item<int64_t>(), 3);
  EXPECT_TRUE(at::isfinite(average.named_averages()["weight"]).all().item<bool>());
}

/// Updates with a random walk, and the values after each.
template <class A, class O>
std::vector<double> run(const O& options, int steps, int resume_at = -1) {
  Number model;
  auto average = std::make_unique<A>(model.net, options);
  std::vector<double> values;
  for (int k = 0; k < steps; ++k) {
    if (k == resume_at) {
      const AverageState state = average->state_dict().clone();
      average = std::make_unique<A>(model.net, options);
      average->load_state_dict(state);
    }
    model.set(std::sin(3 * k) + 0.1 * k + (options.write_back() ? 0.5 * model.get() : 0));
    average->update_parameters(model.net);
    values.push_back(value_of(*average));
  }
  return values;
}

template <class A, class O>
void expect_exact_resume(const O& options) {
  const std::vector<double> whole = run<A>(options, 40);
  for (const int at : {1, 2, 7, 18, 39}) {
    EXPECT_EQ(run<A>(options, 40, at), whole) << O::kName << " resumed at " << at;
  }
}

TEST(EveryRule, ResumesWithTheSameBits) {
  expect_exact_resume<BEMA>(BEMAOptions().interval(3));
  expect_exact_resume<SlidingWindowAverage>(SlidingWindowAverageOptions().window(4));
  expect_exact_resume<WarmupEMA>(WarmupEMAOptions().update_after_step(5));
  expect_exact_resume<StochasticWeightAverage>(
      StochasticWeightAverageOptions().begin(9).max_snapshots(3));
  expect_exact_resume<ExponentialMovingAverage>(
      ExponentialMovingAverageOptions().decay(0.9).bias_correction(true).interval(2));
  expect_exact_resume<ExponentialMovingAverage>(
      ExponentialMovingAverageOptions().momentum(0.3).write_back(
          WriteBackOptions().every(6).restart(true)));
  expect_exact_resume<ExponentialMovingAverage>(ExponentialMovingAverageOptions()
                                                    .momentum(0.5)
                                                    .interval(5)
                                                    .start(AverageStart::initial)
                                                    .write_back(WriteBackOptions().every(5)));
}

TEST(BiasCorrection, IsTheAverageFromZeroDividedByItsWeight) {
  Number model;
  const auto options =
      ExponentialMovingAverageOptions().momentum(0.1).bias_correction(true).interval(2);
  ExponentialMovingAverage average(model.net, options);
  double from_zero = 0, filled = 0;
  for (int k = 0; k < 50; ++k) {
    model.set(std::sin(k));
    if (k % 2 == 0) {
      from_zero += 0.1 * (std::sin(k) - from_zero);
      filled = 1 - (1 - filled) * 0.9;
    }
    EXPECT_NEAR(average.weight(k), options.weight(Clock(k)), 1e-15);
    average.update_parameters(model.net);
    EXPECT_NEAR(value_of(average), from_zero / filled, 1e-14) << k;
  }
}

TEST(Start, InitialAveragesWithTheWeightsOfTheBeginning) {
  Number model(1);
  ExponentialMovingAverage average(
      model.net,
      ExponentialMovingAverageOptions().momentum(0.5).interval(5).start(AverageStart::initial));
  double expected = 1;
  for (int step = 1; step <= 20; ++step) {
    model.set(step);
    average.update_parameters(model.net);
    if (step % 5 == 0) expected = (expected + step) / 2;
    EXPECT_EQ(value_of(average), expected) << step;
  }
}

TEST(Begin, LeavesTheModelAloneUntilThen) {
  Number model(1);
  StochasticWeightAverage average(model.net, StochasticWeightAverageOptions().begin(3));
  for (int k = 0; k < 3; ++k) {
    model.set(k + 10);
    average.update_parameters(model.net);
    EXPECT_FALSE(average.has_started());
    const SwapGuard guard = average.swap(model.net);
    EXPECT_EQ(model.get(), k + 10) << "there is nothing to swap in yet";
  }
  for (int k = 3; k < 6; ++k) {
    model.set(k);
    average.update_parameters(model.net);
  }
  EXPECT_EQ(value_of(average), 4);
  EXPECT_EQ(average.steps(), 6);
}

TEST(WriteBack, IsLookahead) {
  Number model(0);
  ExponentialMovingAverage average(model.net, ExponentialMovingAverageOptions()
                                                  .momentum(0.5)
                                                  .interval(5)
                                                  .start(AverageStart::initial)
                                                  .write_back(WriteBackOptions().every(5)));
  double slow = 0, fast = 0;
  for (int step = 1; step <= 23; ++step) {
    fast += step;
    model.set(model.get() + step);
    average.update_parameters(model.net);
    if (step % 5 == 0) fast = slow += 0.5 * (fast - slow);
    EXPECT_EQ(model.get(), fast) << step;
    EXPECT_EQ(average.wrote_back(), step % 5 == 0);
  }
}

TEST(WriteBack, TakesAPartBetweenBeginAndEnd) {
  Number model(0);
  ExponentialMovingAverage average(
      model.net, ExponentialMovingAverageOptions().momentum(0.25).write_back(
                     WriteBackOptions().every(2).begin(4).end(Length(6)).weight(0.5)));
  for (int k = 0; k < 10; ++k) {
    model.set(k);
    average.update_parameters(model.net);
    const bool due = k == 4;  // updates 5 of the run, 4 since the copy; 7 is after the end
    EXPECT_EQ(average.wrote_back(), due) << k;
    if (due) {
      EXPECT_DOUBLE_EQ(model.get(), (4 + value_of(average)) / 2);
    }
  }
}

TEST(WriteBack, RestartsTheAverageFromTheModelAndKeepsItsPeriod) {
  for (const AverageStart start : {AverageStart::first_update, AverageStart::initial}) {
    Number model(0);
    ExponentialMovingAverage average(
        model.net, ExponentialMovingAverageOptions().momentum(0.25).start(start).write_back(
                       WriteBackOptions().every(3).restart(true)));
    const int first = start == AverageStart::initial ? 2 : 3;
    double expected = 0;
    for (int k = 0; k < 10; ++k) {
      model.set(k);
      average.update_parameters(model.net);
      if (k > 0 || start == AverageStart::initial) expected += 0.25 * (k - expected);
      EXPECT_DOUBLE_EQ(value_of(average), expected) << k;
      EXPECT_EQ(average.wrote_back(), k >= first && (k - first) % 3 == 0) << k;
    }
  }
}

TEST(WriteBack, ARestartBeginsTheRampOfARuleAnew) {
  Number model(5);
  PowerFunctionEMA average(model.net, PowerFunctionEMAOptions().gamma(0).write_back(
                                          WriteBackOptions().every(4).restart(true)));
  for (int k = 0; k <= 4; ++k) average.update_parameters(model.net);
  ASSERT_TRUE(average.wrote_back());
  EXPECT_DOUBLE_EQ(average.weight(5), 0.5) << "the mean of the restart's weights and the next";
}

TEST(WriteBack, OptionsOfCodeAreCheckedToo) {
  Number model;
  const auto build = [&](WriteBackOptions options) {
    ExponentialMovingAverage(model.net, ExponentialMovingAverageOptions().write_back(options));
  };
  EXPECT_THROW(build(WriteBackOptions().weight(0.5)), ConfigError) << "every is missing";
  EXPECT_THROW(build(WriteBackOptions().every(0)), ConfigError);
  EXPECT_THROW(build(WriteBackOptions().every(2).weight(2)), ConfigError);
  EXPECT_THROW(build(WriteBackOptions().every(2).begin(9).end(Length(3))), ConfigError);
}

TEST(Momentum, TwoNamesAreRefusedInCodeToo) {
  Number model;
  EXPECT_THAT(
      [&] {
        ExponentialMovingAverage(model.net,
                                 ExponentialMovingAverageOptions().momentum(0.1).decay(0.99));
      },
      ThrowsMessage<ConfigError>(HasSubstr("decay")));
  EXPECT_THAT(
      [&] { ExponentialMovingAverage(model.net, ExponentialMovingAverageOptions().decay(1.5)); },
      ThrowsMessage<ConfigError>(HasSubstr("decay")));
}

TEST(Momentum, AHalfLifeCountsTheUpdatesThatOnlyCount) {
  Number model;
  for (const bool per_interval : {false, true}) {
    ExponentialMovingAverage average(
        model.net,
        ExponentialMovingAverageOptions().half_life(100).interval(10).per_interval(per_interval));
    EXPECT_NEAR(average.weight(10), 1 - std::pow(0.5, 0.1), 1e-12) << per_interval;
  }
}

TEST(BiasCorrection, AnAverageThatWasLoadedByItsCountIsNotForgotten) {
  Number model(3);
  const auto options = ExponentialMovingAverageOptions().momentum(0.01).bias_correction(true);
  ExponentialMovingAverage average(model.net, options);
  average.load_state(average.state(), 100);
  EXPECT_NEAR(average.weight(100), 0.01 / (1 - std::pow(0.99, 101)), 1e-12);
  std::stringstream archive;
  for (int k = 0; k < 3; ++k) average.update_parameters(model.net);
  torch::serialize::OutputArchive out;
  average.save(out);
  out.save_to(archive);
  ExponentialMovingAverage other(model.net, options);
  torch::serialize::InputArchive in;
  in.load_from(archive);
  other.load(in);
  EXPECT_NEAR(other.weight(103), 0.01 / (1 - std::pow(0.99, 104)), 1e-12);
}

TEST(SlidingWindow, OfAnotherWindowBeginsWithTheMeanThatWasSaved) {
  Number model(0);
  SlidingWindowAverage saved(model.net, SlidingWindowAverageOptions().window(3));
  for (int k = 0; k < 6; ++k) {
    model.set(k);
    saved.update_parameters(model.net);
  }
  SlidingWindowAverage average(model.net, SlidingWindowAverageOptions().window(2));
  average.load_state_dict(saved.state_dict());
  EXPECT_DOUBLE_EQ(value_of(average), 4);
  for (const double value : {10.0, 20.0}) {
    model.set(value);
    average.update_parameters(model.net);
  }
  EXPECT_DOUBLE_EQ(value_of(average), 15) << "the mean of the two new ones, and nothing else";
}

TEST(SlidingWindow, ItsMemoryIsStated) {
  Number model(0);
  const SlidingWindowAverage average(model.net, SlidingWindowAverageOptions().window(3));
  EXPECT_EQ(average.coverage().sum().bytes, 5 * 8) << "average, mean and three snapshots";
}

TEST(Begin, AnAverageThatHadStartedGoesOnUnderALaterBegin) {
  Number model(1);
  StochasticWeightAverage saved(model.net, StochasticWeightAverageOptions().begin(2));
  for (int k = 0; k < 5; ++k) saved.update_parameters(model.net);
  StochasticWeightAverage average(model.net, StochasticWeightAverageOptions().begin(1000));
  average.load_state_dict(saved.state_dict());
  EXPECT_TRUE(average.has_started());
  EXPECT_EQ(average.weight(5), saved.weight(5));
}

TEST(Begin, DoesNotGoWithTheInitialWeights) {
  Number model;
  EXPECT_THAT(
      [&] {
        StochasticWeightAverage(
            model.net, StochasticWeightAverageOptions().begin(5).start(AverageStart::initial));
      },
      ThrowsMessage<ConfigError>(HasSubstr("start: initial")));
}

TEST(Scaling, KeepsTheHorizonForALongerIntervalAndAnotherBatch) {
  Number model;
  ExponentialMovingAverage average(
      model.net, ExponentialMovingAverageOptions().momentum(0.01).interval(4).per_interval(true));
  EXPECT_NEAR(average.weight(8), 1 - std::pow(0.99, 4), 1e-15);
  ExponentialMovingAverage by_batch(
      model.net, ExponentialMovingAverageOptions().momentum(0.01).base_batch_size(256));
  EXPECT_THAT([&] { by_batch.update_parameters(model.net); },
              ThrowsMessage<Error>(HasSubstr("base_batch_size needs the samples")));
  by_batch.set_batch_size(64);
  EXPECT_NEAR(by_batch.weight(8), 1 - std::pow(0.99, 0.25), 1e-15);
}

}  // namespace
}  // namespace polyak::test
