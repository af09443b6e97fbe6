// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/optim/adam.h>
#include <torch/utils.h>

#include "polyak/polyak.h"
#include "unit/averaging/averaging_testing.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(Swap, BeforeTheFirstUpdateChangesNothing) {
  torch::nn::Linear net(1, 1);
  fill(*net, 1);
  ExponentialMovingAverage average(net);
  fill(*net, 2);
  auto guard = average.swap(net);
  EXPECT_EQ(net->weight.item<float>(), 2);
}

TEST(Swap, PutsTheRawWeightsBackWhenAnExceptionPasses) {
  torch::nn::Linear net(1, 1);
  ExponentialMovingAverage average(net, ema(0.5));
  fill(*net, 0);
  average.update_parameters(net);
  fill(*net, 1);
  average.update_parameters(net);
  const void* address = net->weight.data_ptr();
  try {
    auto guard = average.swap(net);
    EXPECT_EQ(net->weight.item<float>(), 0.5F);
    throw std::runtime_error("evaluation failed");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(net->weight.item<float>(), 1);
  EXPECT_EQ(net->weight.data_ptr(), address);
  EXPECT_EQ(average_of(average, "weight").item<float>(), 0.5F);
}

TEST(Swap, InsideASwapDoesNothingAndTheOuterGuardRestores) {
  torch::nn::Linear net(1, 1);
  ExponentialMovingAverage average(net, ema(0.5));
  fill(*net, 0);
  average.update_parameters(net);
  fill(*net, 1);
  average.update_parameters(net);
  {
    auto outer = average.swap(net);
    { auto inner = average.swap(net); }
    EXPECT_EQ(net->weight.item<float>(), 0.5F);
    EXPECT_THAT([&] { average.update_parameters(net); }, ThrowsMessage<Error>(HasSubstr("guard")));
  }
  EXPECT_EQ(net->weight.item<float>(), 1);
}

TEST(Swap, KeepsOptimizerStateAndTiedTensors) {
  Tied net;
  torch::optim::Adam optimizer({net.embedding}, torch::optim::AdamOptions(0.1));
  ExponentialMovingAverage average(net, ema(0.5));
  for (int i = 0; i < 3; ++i) {
    optimizer.zero_grad();
    (net.output - 1).pow(2).sum().backward();
    optimizer.step();
    average.update_parameters(net);
    auto guard = average.swap(net);
    EXPECT_EQ(net.embedding.data_ptr(), net.output.data_ptr());
  }
  EXPECT_EQ(optimizer.state().size(), 1u);
  EXPECT_EQ(net.embedding.data_ptr(), net.output.data_ptr());
}

TEST(Swap, BetweenForwardAndBackwardMakesTheBackwardFail) {
  torch::nn::Linear first(2, 2), second(2, 1);
  torch::nn::Sequential net(first, second);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  const at::Tensor loss = net->forward(at::ones({3, 2})).sum();
  { auto guard = average.swap(net); }
  EXPECT_THROW(loss.backward(), std::exception);  // silent wrong gradients otherwise
}

TEST(Swap, GuardOutlivesTheAverageSafely) {
  torch::nn::Linear net(1, 1);
  auto average = std::make_unique<ExponentialMovingAverage>(net, ema(0.5));
  fill(*net, 0);
  average->update_parameters(net);
  fill(*net, 1);
  average->update_parameters(net);
  SwapGuard guard = average->swap(net);
  average.reset();
  EXPECT_EQ(net->weight.item<float>(), 0.5F);
  guard.release();
  EXPECT_EQ(net->weight.item<float>(), 1);
}

// ---- swaps that copy

TEST(CopySwap, KeepsAddressesAndPutsTheRawWeightsBack) {
  TinyNet net;
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  {
    torch::NoGradGuard no_grad;
    for (const at::Tensor& parameter : net->parameters()) parameter.add_(2);
  }
  average.update_parameters(net);
  const void* address = net->fc->weight.data_ptr();
  const at::Tensor raw = net->fc->weight.detach().clone();
  try {
    auto guard = average.swap(net, SwapMode::copy);
    EXPECT_TRUE(average.is_swapped());
    EXPECT_EQ(net->fc->weight.data_ptr(), address);
    EXPECT_TRUE(at::equal(net->fc->weight, average_of(average, "fc.weight")));
    for (const NamedTensor& item : average.swapped_out()) {
      if (item.name != "fc.weight") continue;
      EXPECT_TRUE(at::equal(item.tensor, raw));
    }
    throw std::runtime_error("evaluation failed");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(net->fc->weight.data_ptr(), address);
  EXPECT_TRUE(at::equal(net->fc->weight, raw));
  EXPECT_FALSE(average.is_swapped());
  EXPECT_TRUE(net->fc->weight.requires_grad());
}

TEST(CopySwap, WhatIsWrittenToTheModelMeanwhileDoesNotReachTheAverage) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  const at::Tensor before = average_of(average, "weight").clone();
  {
    auto guard = average.swap(net, SwapMode::copy);
    torch::nn::init::constant_(net->weight, 9);
  }
  EXPECT_TRUE(at::equal(average_of(average, "weight"), before));
}

TEST(CopySwap, BetweenForwardAndBackwardMakesTheBackwardFail) {
  torch::nn::Linear first(2, 2), second(2, 2);
  ExponentialMovingAverage average(second, ema(0.5));
  average.update_parameters(second);
  const at::Tensor loss = second(first(at::ones({1, 2}))).sum();
  { auto guard = average.swap(second, SwapMode::copy); }
  EXPECT_THAT([&] { loss.backward(); }, ThrowsMessage<c10::Error>(HasSubstr("inplace operation")));
}

TEST(CopySwap, WorksOnATorchScriptModule) {
  torch::jit::Module net("net");
  net.register_parameter("weight", at::ones({2}), false);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.attr("weight").toTensor().fill_(3);
  average.update_parameters(net);
  {
    auto guard = average.swap(net, SwapMode::copy);
    EXPECT_EQ(net.attr("weight").toTensor()[0].item<float>(), 2);
  }
  EXPECT_EQ(net.attr("weight").toTensor()[0].item<float>(), 3);
}

/// A weight and its transpose, both registered: two tensors over one storage.
struct Overlapping : torch::nn::Module {
  Overlapping() {
    weight = register_parameter("weight", at::randn({3, 5}));
    view = register_parameter("view", weight.detach().t());
  }
  at::Tensor weight, view;
};

TEST(Swap, OfOverlappingViewsPutsBothBackInBothModes) {
  for (const SwapMode mode : {SwapMode::exchange, SwapMode::copy}) {
    Overlapping net;
    ExponentialMovingAverage average(net, ema(0.5));
    average.update_parameters(net);
    torch::nn::init::constant_(net.weight, 4);
    average.update_parameters(net);
    EXPECT_TRUE(at::equal(average_of(average, "weight"), average_of(average, "view").t()));
    {
      auto guard = average.swap(net, mode);
      EXPECT_TRUE(at::equal(net.view.t(), average_of(average, "weight")));
    }
    EXPECT_EQ(net.weight.min().item<float>(), 4);
    EXPECT_EQ(net.view.max().item<float>(), 4);
    EXPECT_EQ(net.weight.data_ptr(), net.view.data_ptr());
  }
}

/// One number seen several times, as expand() makes it.
struct Expanded : torch::nn::Module {
  Expanded() { scale = register_parameter("scale", at::ones({1}).expand({4})); }
  at::Tensor scale;
};

TEST(Swap, OfAnExpandedTensorExchangesButRefusesToCopy) {
  Expanded net;
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  { auto guard = average.swap(net); }
  const at::Tensor before = net.scale.detach().clone();
  EXPECT_THAT([&] { auto guard = average.swap(net, SwapMode::copy); },
              ThrowsMessage<Error>(AllOf(HasSubstr("scale"), HasSubstr("exchange"))));
  EXPECT_THAT([&] { average.copy_to(net); }, ThrowsMessage<Error>(HasSubstr("scale")));
  EXPECT_TRUE(at::equal(net.scale, before));
  EXPECT_FALSE(average.is_swapped());
}

}  // namespace
}  // namespace polyak::test
