// SPDX-License-Identifier: Apache-2.0
// Models whose tensors and modules are exchanged while they are averaged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include "polyak/polyak.h"
#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct Net : torch::nn::Module {
  explicit Net(double value = 0) {
    register_module("a", torch::nn::Linear(2, 2));
    inner = register_module("inner", std::make_shared<torch::nn::Module>("Inner"));
    inner->register_module("b", torch::nn::Linear(2, 2));
    inner->register_module("norm", torch::nn::BatchNorm1d(2));
    own = register_parameter("own", at::zeros({2}));
    fill(value);
  }
  void fill(double value) {
    const torch::NoGradGuard no_grad;
    for (const NamedTensor& item : ModelRef(*this).tensors()) item.tensor.fill_(value);
  }
  /// Under its own name, another tensor.
  void replace_own(const at::Tensor& value) {
    parameters_.erase("own");
    own = register_parameter("own", value, at::isFloatingType(value.scalar_type()));
  }

  std::shared_ptr<torch::nn::Module> inner;
  at::Tensor own;
};

torch::nn::Linear linear(double value, int64_t out = 2) {
  torch::nn::Linear layer(2, out);
  const torch::NoGradGuard no_grad;
  layer->weight.fill_(value);
  layer->bias.fill_(value);
  return layer;
}

TEST(ReplacedTensors, AReplacedLayerGoesOnBeingAveraged) {
  Net net(4);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.inner->replace_module("b", linear(8));  // nobody holds the old one
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "inner.b.weight"), 6);
  EXPECT_EQ(first_of(average, "inner.b.bias"), 6);
  EXPECT_EQ(first_of(average, "a.weight"), 4);
  net.fill(8);
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "inner.b.weight"), 7) << "follows the new one from then on";
}

TEST(ReplacedTensors, ALayerThatOthersStillHoldIsNoLongerTheModels) {
  Net net(4);
  const auto old = std::dynamic_pointer_cast<torch::nn::LinearImpl>(net.children().front());
  torch::optim::SGD optimizer(net.parameters(), 0.1);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.replace_module("a", linear(8));
  {
    const torch::NoGradGuard no_grad;
    old->weight.fill_(100);
  }
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "a.weight"), 6);
}

TEST(ReplacedTensors, AReplacedPartOfTheTreeGoesOnBeingAveraged) {
  Net net(4);
  Net other(8);
  ExponentialMovingAverage average(net, ema(0.5).update_buffers(true));
  average.update_parameters(net);
  net.inner = net.replace_module("inner", other.inner);
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "inner.b.weight"), 6);
  EXPECT_EQ(first_of(average, "inner.norm.running_mean"), 6);
  EXPECT_EQ(first_of(average, "inner.norm.num_batches_tracked"), 8) << "copied";
}

TEST(ReplacedTensors, AParameterThatWasRegisteredAnewGoesOnBeingAveraged) {
  Net net(4);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.replace_own(at::full({2}, 8.0));
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "own"), 6);
}

TEST(ReplacedTensors, ATensorWithOtherDataGoesOnBeingAveraged) {
  Net net(4);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.own.set_data(at::full({2}, 8.0));
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "own"), 6);
}

TEST(ReplacedTensors, AnotherFloatingDtypeGoesOnInTheAveragesOwn) {
  Net net(4);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.replace_own(at::full({2}, 8.0, at::kBFloat16));
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "own"), 6);
  EXPECT_EQ(average_of(average, "own").scalar_type(), at::kFloat);
}

TEST(ReplacedTensors, EveryAverageOfAJointUpdateSeesThem) {
  Net net(4);
  ExponentialMovingAverage slow(net, ema(0.25)), fast(net, ema(0.5));
  AveragedModel* both[] = {&slow, &fast};
  update_together(both, net);
  net.replace_module("a", linear(8));
  update_together(both, net);
  EXPECT_EQ(first_of(slow, "a.weight"), 5);
  EXPECT_EQ(first_of(fast, "a.weight"), 6);
}

TEST(ReplacedTensors, ASwapPutsTheAverageIntoTheNewOne) {
  Net net(4);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  const torch::nn::Linear layer = linear(8);
  net.replace_module("a", layer);
  average.update_parameters(net);
  {
    const SwapGuard guard = average.swap(net);
    EXPECT_EQ(layer->weight[0][0].item<float>(), 6);
  }
  EXPECT_EQ(layer->weight[0][0].item<float>(), 8);
}

// Was refused, until averages followed layers that change.
TEST(ReplacedTensors, AnotherShapeStartsAsACopyAndTheRestGoesOn) {
  Net net(4);
  ExponentialMovingAverage average(net, ema(0.5)), other(net, ema(0.5));
  AveragedModel* both[] = {&average, &other};
  update_together(both, net);
  const auto before = net.children().front();
  net.fill(8);
  net.replace_module("a", linear(8, 3));
  EXPECT_THAT(log_of([&] { update_together(both, net); }),
              testing::Each(HasSubstr("of another shape a.weight, a.bias")));
  for (const AveragedModel* each : both) {
    EXPECT_EQ(each->steps(), 2);
    EXPECT_EQ(average_of(*each, "a.weight").sizes(), at::IntArrayRef({3, 2}));
    EXPECT_EQ(first_of(*each, "a.weight"), 8);
    EXPECT_EQ(first_of(*each, "own"), 6);
  }
  net.replace_module("a", before);
  update_together(both, net);
  EXPECT_EQ(first_of(average, "a.weight"), 8) << "a copy of what is now";
}

TEST(ReplacedTensors, OtherNumbersAreRefusedByName) {
  for (const at::ScalarType dtype : {at::kLong, at::kComplexFloat}) {
    Net net(4);
    ExponentialMovingAverage average(net, ema(0.5));
    average.update_parameters(net);
    net.replace_own(at::ones({2}, dtype));
    EXPECT_THAT([&] { average.update_parameters(net); },
                ThrowsMessage<Error>(AllOf(HasSubstr("own"), HasSubstr(at::toString(dtype)))));
    EXPECT_EQ(first_of(average, "own"), 4);
  }
}

TEST(ReplacedTensors, ALayerThatWasAddedJoinsAndOneThatIsGoneLeaves) {
  Net net(4);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.register_module("late", linear(7));
  net.own.data().fill_(8);
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "own"), 6);
  EXPECT_EQ(average_of(average, "late.weight").numel(), 4);
  net.unregister_module("late");  // was refused, until averages followed layers that go
  average.update_parameters(net);
  EXPECT_EQ(average.named_averages().find("late.weight"), nullptr);
  EXPECT_EQ(first_of(average, "own"), 7);
}

TEST(ReplacedTensors, OfATorchScriptModuleTheyGoOnBeingAveraged) {
  torch::jit::Module net("net"), inner("inner");
  inner.register_parameter("weight", at::full({2}, 4.0), false);
  net.register_parameter("own", at::full({2}, 4.0), false);
  net.register_buffer("count", at::full({}, 4, at::kLong));
  net.register_module("inner", inner);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.setattr("own", at::full({2}, 8.0));
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "own"), 6);
  inner.setattr("weight", at::full({2}, 8.0));
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "inner.weight"), 6);
  net.setattr("count", at::full({}, 5, at::kLong));
  average.rebind(net);
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "count"), 5);
  net.setattr("own", at::full({3}, 8.0));
  average.update_parameters(net);
  EXPECT_EQ(average_of(average, "own").numel(), 3) << "starts as a copy";
}

TEST(ReplacedTensors, AnAverageInsideTheModelIsSeenWhenItIsBuiltAnew) {
  Net net(4);
  auto target = std::make_shared<ExponentialMovingAverage>(net.inner, ema(0.5));
  net.register_module("target", target);
  ExponentialMovingAverage average(net, ema(0.5));
  target->update_parameters(net.inner);
  average.update_parameters(net);
  net.inner->register_module("late", linear(8));
  target->rebind(net.inner);  // its averaged copy is another module now
  target->update_parameters(net.inner);
  average.update_parameters(net);
  EXPECT_EQ(average_of(average, "target.module.late.weight").numel(), 4);
}

}  // namespace
}  // namespace polyak::test
