// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/precise_bn_hook.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "polyak/averaging/averages.h"
#include "support/fake_runner.h"

namespace polyak::test {
namespace {

/// Scales its input, normalises it (`first`), adds 1 and normalises again (`second`).
struct TwoNormsImpl : torch::nn::Cloneable<TwoNormsImpl> {
  TwoNormsImpl() { TwoNormsImpl::reset(); }
  void reset() override {
    scale = register_parameter("scale", at::ones({1}));
    first = register_module("first", torch::nn::BatchNorm1d(1));
    second = register_module("second", torch::nn::BatchNorm1d(1));
    beside = register_module("beside", torch::nn::BatchNorm1d(1));  // no pass reaches it
    statistic = register_buffer("statistic", at::zeros({1}));
  }
  void train(bool on = true) override {
    torch::nn::Module::train(on);
    if (frozen_by_train) first->torch::nn::Module::train(false);
  }
  at::Tensor forward(const at::Tensor& x) {
    if (frozen_by_forward) first->eval();
    return second(first(x * scale) + 1);
  }

  at::Tensor scale, statistic;
  torch::nn::BatchNorm1d first{nullptr}, second{nullptr}, beside{nullptr};
  bool frozen_by_train = false;
  bool frozen_by_forward = false;
};
TORCH_MODULE(TwoNorms);

double value(const at::Tensor& tensor) {
  return tensor.item<double>();
}

/// A run over one batch, whose mean is 3, with an average of the scales 1 and 3. `first` holds the
/// mean 10 and the variance 4, which no batch gives.
class PreciseBN : public ::testing::Test {
 protected:
  PreciseBN() {
    const torch::NoGradGuard no_grad;
    runner_.forward_ = [this](int64_t) {
      ++passes_;
      net_->forward(at::tensor({0.0F, 2.0F, 4.0F, 6.0F}).view({4, 1}));
    };
    net_->first->running_mean.fill_(10);
    net_->first->running_var.fill_(4);
    net_->beside->running_mean.fill_(7);
  }
  std::shared_ptr<AveragedModel> average(const std::string& precision = "default") {
    const torch::NoGradGuard no_grad;
    auto result = std::make_shared<StochasticWeightAverage>(
        ModelRef(net_), StochasticWeightAverageOptions()
                            .precision(parse_precision(precision))
                            .update_buffers(true));
    for (const double scale : {1.0, 3.0}) {
      net_->scale.fill_(scale);
      result->update_parameters(net_);
    }
    runner_.averages().add({"", result});
    return result;
  }
  static double averaged(const std::shared_ptr<AveragedModel>& average, const std::string& name) {
    return value(average->named_averages()[name]);
  }
  /// `first` keeps its statistics and computes with them: (2 * 3 - 10) / sqrt(4) + 1.
  static void expect_first_frozen(const std::shared_ptr<AveragedModel>& average) {
    EXPECT_EQ(averaged(average, "first.running_mean"), 10);
    EXPECT_EQ(averaged(average, "first.running_var"), 4);
    EXPECT_NEAR(averaged(average, "second.running_mean"), -1, 1e-4);
    EXPECT_EQ(averaged(average, "beside.running_mean"), 7);
  }
  /// `first` has the mean 2 * 3 and gives a mean of 0.
  static void expect_both_estimated(const std::shared_ptr<AveragedModel>& average) {
    EXPECT_NEAR(averaged(average, "first.running_mean"), 6, 1e-5);
    EXPECT_NEAR(averaged(average, "second.running_mean"), 1, 1e-5);
    EXPECT_EQ(averaged(average, "beside.running_mean"), 7);
  }

  TwoNorms net_;
  FakeRunner runner_{net_};
  PreciseBNHook precise_;
  int passes_ = 0;
};

TEST_F(PreciseBN, EstimatesWhatTrains) {
  const auto average = this->average();
  net_->eval();
  precise_.before_val_epoch(runner_);
  expect_both_estimated(average);
  EXPECT_EQ(value(net_->first->running_mean), 10) << "the raw model's own";
}

TEST_F(PreciseBN, LeavesAloneWhatTheModelsTrainKeepsInEvalMode) {
  net_->frozen_by_train = true;
  const auto average = this->average();
  net_->eval();
  precise_.before_val_epoch(runner_);
  expect_first_frozen(average);
}

TEST_F(PreciseBN, LeavesAloneWhatForwardPutsIntoEvalMode) {
  net_->frozen_by_forward = true;
  const auto average = this->average();
  net_->eval();
  precise_.before_val_epoch(runner_);
  expect_first_frozen(average);
}

TEST_F(PreciseBN, LeavesAloneWhatWasInEvalModeInTheLastIteration) {
  const auto average = this->average();
  net_->train();
  precise_.after_train_iter(runner_, 0, {});
  net_->first->eval();
  precise_.after_train_iter(runner_, 1, {});
  net_->eval();  // as a loop does before its validation
  precise_.before_val_epoch(runner_);
  expect_first_frozen(average);
}

TEST_F(PreciseBN, EstimatesWhatTrainsAgain) {
  const auto average = this->average();
  net_->first->eval();
  precise_.after_train_iter(runner_, 0, {});
  net_->first->train();
  precise_.after_train_iter(runner_, 1, {});
  net_->eval();
  precise_.before_val_epoch(runner_);
  expect_both_estimated(average);
}

TEST_F(PreciseBN, LeavesAloneWhatIsInEvalModeBeforeTheFirstIteration) {
  const auto average = this->average();
  net_->first->eval();
  precise_.before_val_epoch(runner_);
  expect_first_frozen(average);
}

TEST_F(PreciseBN, KeepsFrozenStatisticsWhateverThePassesDoToTheirMode) {
  const auto average = this->average();
  net_->first->eval();
  precise_.after_train_iter(runner_, 0, {});
  runner_.forward_ = [this](int64_t) {
    net_->train();
    net_->forward(at::ones({4, 1}));
  };
  precise_.before_val_epoch(runner_);
  EXPECT_EQ(averaged(average, "first.running_mean"), 10);
  EXPECT_EQ(averaged(average, "first.running_var"), 4);
  EXPECT_FALSE(net_->first->is_training());
}

TEST_F(PreciseBN, RunsNoPassWhereNothingTrains) {
  const auto average = this->average();
  net_->eval();
  precise_.after_train_iter(runner_, 0, {});
  precise_.before_val_epoch(runner_);
  EXPECT_EQ(passes_, 0);
  EXPECT_EQ(averaged(average, "first.running_mean"), 10);
}

TEST_F(PreciseBN, GivesEveryModuleItsModeBack) {
  average();
  net_->train();
  precise_.after_train_iter(runner_, 0, {});
  net_->eval();
  net_->second->train();
  precise_.before_val_epoch(runner_);
  EXPECT_EQ(passes_, 1);
  EXPECT_FALSE(net_->is_training());
  EXPECT_FALSE(net_->first->is_training());
  EXPECT_TRUE(net_->second->is_training());
  EXPECT_FALSE(net_->beside->is_training());
}

TEST_F(PreciseBN, EstimatesALayerThatWasReplacedSinceTheLastIteration) {
  const auto average = this->average();
  net_->first->eval();
  precise_.after_train_iter(runner_, 0, {});
  net_->first = net_->replace_module("first", torch::nn::BatchNorm1d(1));
  precise_.before_val_epoch(runner_);
  expect_both_estimated(average);
}

TEST_F(PreciseBN, EstimatesTheModelsOwnStatisticsWithoutAnAverage) {
  net_->frozen_by_train = true;
  net_->train();
  precise_.before_val_epoch(runner_);
  EXPECT_EQ(value(net_->first->running_mean), 10);
  EXPECT_NEAR(value(net_->second->running_mean), (3.0 - 10) / 2 + 1, 1e-4);
  EXPECT_EQ(value(net_->second->num_batches_tracked), 0);
}

TEST_F(PreciseBN, KeepsTheMomentumOfALayerUnderTwoNames) {
  net_->register_module("again", net_->second.ptr());
  net_->second->num_batches_tracked.fill_(5);
  precise_.before_val_epoch(runner_);
  EXPECT_EQ(net_->second->options.momentum().value(), 0.1);
  EXPECT_EQ(value(net_->second->num_batches_tracked), 5);
  EXPECT_NEAR(value(net_->second->running_mean), 1, 1e-5);
}

TEST_F(PreciseBN, ReplacesStatisticsThatAreNotFinite) {
  net_->first->running_mean.fill_(std::numeric_limits<double>::quiet_NaN());
  net_->second->running_var.fill_(std::numeric_limits<double>::infinity());
  precise_.before_val_epoch(runner_);
  EXPECT_NEAR(value(net_->first->running_mean), 3, 1e-5);
  EXPECT_NEAR(value(net_->second->running_mean), 1, 1e-5);
  EXPECT_TRUE(std::isfinite(value(net_->second->running_var)));
}

TEST_F(PreciseBN, LeavesTheDigitsOfOtherAveragedBuffers) {
  auto average =
      std::make_shared<ExponentialMovingAverage>(ModelRef(net_), ExponentialMovingAverageOptions()
                                                                     .momentum(0.1)
                                                                     .precision(Precision::float64)
                                                                     .update_buffers(true));
  average->update_parameters(net_);
  net_->statistic.fill_(1);
  average->update_parameters(net_);
  runner_.averages().add({"", average});
  precise_.before_val_epoch(runner_);
  EXPECT_EQ(averaged(average, "statistic"), 0.1) << "not rounded to the model's float32";
  EXPECT_NEAR(averaged(average, "first.running_mean"), 3, 1e-5);
}

TEST(PreciseBNHook, GivesTheAveragedWeightsTheirOwnStatistics) {
  torch::nn::Linear linear(1, 1);
  torch::nn::BatchNorm1d bn(1);
  torch::nn::Sequential net(linear, bn);
  FakeRunner runner(net);
  const at::Tensor data = at::tensor({0.0F, 2.0F, 4.0F, 6.0F}).view({4, 1});
  int64_t asked = 0;
  runner.forward_ = [&](int64_t samples) {
    asked = samples;
    EXPECT_TRUE(net->is_training());
    net->forward(data);
  };
  auto hook = make_ema_hook(Node::mapping({{"ema_type", "StochasticWeightAverage"}}));
  PreciseBNHook precise(PreciseBNHookOptions().num_samples(4));
  hook->before_run(runner);
  net->eval();
  for (const double weight :
       {1.0, 3.0}) {  // the mean of the weights is 2, its outputs' mean 2 * 3 + 2 = 8
    const torch::NoGradGuard no_grad;
    for (const at::Tensor& parameter : linear->parameters()) parameter.fill_(weight);
    hook->average()->update_parameters(net);
  }
  bn->running_mean.fill_(-1);
  precise.before_val_epoch(runner);
  EXPECT_EQ(asked, 4);
  EXPECT_FALSE(net->is_training());
  EXPECT_FLOAT_EQ(hook->average()->named_averages()["1.running_mean"].item<float>(), 8);
  EXPECT_EQ(bn->running_mean.item<float>(), -1);  // the raw model's own stay
  EXPECT_EQ(linear->weight.item<float>(), 3);
  EXPECT_TRUE(bn->options.momentum());
  hook->before_val_epoch(runner);
  EXPECT_FLOAT_EQ(bn->running_mean.item<float>(), 8);  // what validation sees
}

TEST(PreciseBNHook, AnExceptionLeavesModelAndAverageAsTheyWere) {
  torch::nn::BatchNorm1d bn(1);
  torch::nn::Sequential net(torch::nn::Linear(1, 1), bn);
  FakeRunner runner(net);
  runner.forward_ = [&](int64_t) {
    net->forward(at::ones({2, 1}) * 9);
    throw std::runtime_error("no more data");
  };
  auto hook = make_ema_hook(Node::mapping({{"momentum", 0.5}}));
  hook->before_run(runner);
  bn->running_mean.fill_(5);
  hook->average()->update_parameters(net);
  PreciseBNHook precise;
  EXPECT_THROW(precise.before_val_epoch(runner), std::runtime_error);
  EXPECT_EQ(bn->running_mean.item<float>(), 5);
  EXPECT_EQ(hook->average()->named_averages()["1.running_mean"].item<float>(), 5);
  EXPECT_FALSE(hook->average()->is_swapped());
  EXPECT_TRUE(bn->options.momentum());
}

/// A layer with statistics that the hook does not know.
struct OtherNorm : torch::nn::Module {
  OtherNorm() { mean = register_buffer("mean", at::zeros({1})); }
  void forward(const at::Tensor& x) {
    if (is_training()) mean.lerp_(x.mean(), 0.5);
  }
  at::Tensor mean;
};

TEST(PreciseBNHook, LayersOfOtherKindsFollowThePassesAsTheyFollowTraining) {
  torch::nn::BatchNorm1d norm(1);
  const auto other = std::make_shared<OtherNorm>();
  torch::nn::Module net("Net");
  net.register_module("norm", norm);
  net.register_module("other", other);
  FakeRunner runner(net);
  runner.forward_ = [&](int64_t) {
    norm->forward(at::ones({2, 1}));
    other->forward(at::full({2, 1}, 8.0));
  };
  PreciseBNHook().before_val_epoch(runner);
  EXPECT_EQ(value(norm->running_mean), 1);
  EXPECT_EQ(value(other->mean), 4);
}

/// A layer of one's own that counts what it is asked.
struct OwnNorm : torch::nn::Module, RunningStatistics {
  void begin_mean() override { ++begun; }
  void end_mean() override { ++ended; }
  int begun = 0, ended = 0;
};

TEST(PreciseBNHook, AsksALayerOfOnesOwnOnlyWhereItTrains) {
  torch::nn::Module net("Net");
  const auto trained = net.register_module("trained", std::make_shared<OwnNorm>());
  const auto frozen = net.register_module("frozen", std::make_shared<OwnNorm>());
  net.register_module("again", trained);
  frozen->eval();
  FakeRunner runner(net);
  PreciseBNHook().before_val_epoch(runner);
  EXPECT_EQ(trained->begun, 1);
  EXPECT_EQ(trained->ended, 1);
  EXPECT_EQ(frozen->begun, 0);
  EXPECT_EQ(frozen->ended, 0);
}

}  // namespace
}  // namespace polyak::test
