// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <cmath>

#include "polyak/polyak.h"
#include "unit/averaging/averaging_testing.h"

namespace polyak::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// A model of which nobody derived Cloneable: most models that people write.
struct Plain : torch::nn::Module {
  Plain() {
    weight = register_parameter("weight", at::ones({2, 2}));
    inner = register_module("inner", torch::nn::Linear(2, 2));
  }
  at::Tensor weight;
  torch::nn::Linear inner{nullptr};
};

// ---- semantics

TEST(Average, FirstUpdateCopiesAndLaterOnesMoveByTheWeight) {
  torch::nn::Linear net(2, 2);
  fill(*net, 1);
  ExponentialMovingAverage average(net, ema(0.1));
  fill(*net, 3);
  average.update_parameters(net);
  EXPECT_EQ(average_of(average, "weight")[0][0].item<float>(), 3);
  fill(*net, 5);
  average.update_parameters(net);
  EXPECT_FLOAT_EQ(average_of(average, "weight")[0][0].item<float>(), 3.2F);
  EXPECT_EQ(average.steps(), 2);
}

TEST(Average, SetterOrderDoesNotMatter) {
  torch::nn::Linear net(2, 2);
  CosineEMA average(
      net,
      CosineEMAOptions().interval(2).momentum(0.1).max_iters(10).update_buffers(true).end_momentum(
          0.2));
  EXPECT_DOUBLE_EQ(average.weight(10), 0.2);
  EXPECT_EQ(average.rule_options().at("interval").as_int(), 2);
}

TEST(Average, WeightAtZeroIsOneButTheFormulaHasItsOwnValueThere) {
  torch::nn::Linear net(2, 2);
  CosineEMA average(net, CosineEMAOptions().momentum(0.25).max_iters(4));
  EXPECT_EQ(average.weight(0), 1.0);
  at::Tensor averaged = at::zeros({2});
  average.avg_func(averaged, at::ones({2}), 0);
  EXPECT_FLOAT_EQ(averaged[0].item<float>(), 0.25F);
}

TEST(Average, IntervalSkipsAveragingButCountsAndSyncsBuffers) {
  TinyNet net;
  fill(*net, 0);
  ExponentialMovingAverage average(net, ema(0.5).interval(3));
  for (int i = 0; i < 4; ++i) {
    fill(*net, i);
    average.update_parameters(net);
    EXPECT_EQ(average_of(average, "bn.running_mean")[0].item<float>(), static_cast<float>(i));
    EXPECT_FLOAT_EQ(average_of(average, "fc.bias")[0].item<float>(), i == 3 ? 1.5F : 0.0F) << i;
  }
  EXPECT_EQ(average.steps(), 4);
}

TEST(Average, StochasticWeightAverageIsTheMeanOfItsSnapshots) {
  torch::nn::Linear net(1, 1);
  StochasticWeightAverage average(net, StochasticWeightAverageOptions().interval(2));
  for (int i = 0; i < 7; ++i) {  // snapshots at 0, 2, 4, 6
    fill(*net, i);
    average.update_parameters(net);
  }
  EXPECT_FLOAT_EQ(average_of(average, "weight").item<float>(), 3.0F);
}

TEST(Average, WeightOneCopiesExactly) {
  const at::Tensor source = at::randn({1000});
  const at::Tensor averaged = at::randn({1000}) * 1e6;
  torch::nn::Linear net(1, 1);
  StochasticWeightAverage average(net);
  average.avg_func(averaged, source, 0);  // 1 / (0 + 1)
  EXPECT_TRUE(at::equal(averaged, source));
}

// ---- defects of others that are not ours

TEST(Average, TiedTensorsAreAveragedOnce) {
  Tied net;
  ExponentialMovingAverage average(net, ema(0.1).update_buffers(true));
  average.update_parameters(net);
  fill(net, 1);
  average.update_parameters(net);
  EXPECT_FLOAT_EQ(average_of(average, "embedding")[0].item<float>(),
                  0.1F);  // 0.19 when averaged twice
  EXPECT_TRUE(average_of(average, "embedding").is_same(average_of(average, "output")));
}

TEST(Average, IntegerBuffersAreCopiedWhetherBuffersAreAveragedOrNot) {
  for (const bool update_buffers : {false, true}) {
    TinyNet net;
    ExponentialMovingAverage average(net, ema(0.1).update_buffers(update_buffers));
    for (int i = 1; i <= 5; ++i) {
      net->bn->num_batches_tracked.fill_(i);
      average.update_parameters(net);
      EXPECT_EQ(average_of(average, "bn.num_batches_tracked").item<int64_t>(), i);
    }
  }
}

TEST(Average, BuffersFollowTheModelAtEveryUpdateWhenTheyAreNotAveraged) {
  TinyNet net;
  ExponentialMovingAverage average(net, ema(0.1));
  for (int i = 1; i <= 4; ++i) {
    net->bn->running_mean.fill_(i);
    average.update_parameters(net);
    EXPECT_EQ(average_of(average, "bn.running_mean")[0].item<float>(), static_cast<float>(i));
  }
}

TEST(Average, FrozenParametersAreAveragedAndTheCopyNeedsNoGradient) {
  torch::nn::Linear net(1, 1);
  net->weight.set_requires_grad(false);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  fill(*net, 4);
  average.update_parameters(net);
  for (const at::Tensor& parameter : average.parameters()) EXPECT_FALSE(parameter.requires_grad());
  EXPECT_TRUE(net->bias.requires_grad());
}

TEST(Average, GoesOnAfterTheAverageWasCastAndMoved) {
  torch::nn::Linear net(1, 1);
  fill(*net, 1);
  ExponentialMovingAverage average(net, ema(0.5).update_buffers(true));
  average.update_parameters(net);
  average.to(torch::kDouble);
  fill(*net, 3);
  average.update_parameters(net);
  EXPECT_EQ(average.module<torch::nn::LinearImpl>()->weight.item<double>(), 2.0);
  EXPECT_EQ(average.steps(), 2);
  EXPECT_EQ(average.named_buffers()["steps"].scalar_type(), at::kLong);
}

TEST(Average, OfAHalfPrecisionModelIsKeptInFloat32AndMoves) {
  for (const auto dtype : {at::kHalf, at::kBFloat16}) {
    torch::nn::Linear net(4, 4);
    net->to(dtype);
    fill(*net, 1);
    ExponentialMovingAverage average(net, ema(1e-4));
    average.update_parameters(net);
    fill(*net, 2);
    for (int i = 0; i < 100; ++i) average.update_parameters(net);
    const at::Tensor weight = average_of(average, "weight");
    EXPECT_EQ(weight.scalar_type(), at::kFloat);
    EXPECT_NEAR(weight[0][0].item<double>(), 2 - std::pow(1 - 1e-4, 100),
                1e-5);  // bf16 never moves
    auto module = average.module<torch::nn::LinearImpl>();
    EXPECT_EQ(module->weight.scalar_type(), dtype);
    auto guard = average.swap(net);
    EXPECT_EQ(net->weight.scalar_type(), dtype);
    EXPECT_EQ(net->weight[0][0].item<float>(), weight[0][0].to(dtype).item<float>());
  }
}

TEST(Average, KeepsTheModelsTrainingFlags) {
  TinyNet net;
  net->bn->eval();
  ExponentialMovingAverage average(net);
  auto module = average.module<TinyNetImpl>();
  EXPECT_TRUE(module->is_training());
  EXPECT_FALSE(module->bn->is_training());
}

TEST(Average, LeavesTheProgramsRandomNumbersAlone) {
  TinyNet net;
  at::manual_seed(7);
  const at::Tensor expected = at::rand({4});
  at::manual_seed(7);
  ExponentialMovingAverage average(net);  // cloning initialises a network
  EXPECT_TRUE(at::equal(at::rand({4}), expected));
}

TEST(Average, ComplexAndZeroSizeAndNonContiguousTensorsAreAveraged) {
  struct Odd : torch::nn::Module {
    Odd() {
      spectrum = register_parameter("spectrum", at::zeros({2}, at::kComplexFloat));
      empty = register_parameter("empty", at::zeros({0, 3}));
      transposed = register_parameter("transposed", at::zeros({3, 2}).t());
      scalar = register_parameter("scalar", at::zeros({}));
    }
    at::Tensor spectrum, empty, transposed, scalar;
  } net;
  ExponentialMovingAverage average(net, ema(0.25));
  average.update_parameters(net);
  fill(net, 4);
  average.update_parameters(net);
  EXPECT_EQ(at::real(average_of(average, "spectrum"))[0].item<float>(), 1);
  EXPECT_EQ(average_of(average, "transposed")[1][2].item<float>(), 1);
  EXPECT_EQ(average_of(average, "scalar").item<float>(), 1);
  EXPECT_EQ(average_of(average, "empty").numel(), 0);
}

TEST(Average, ChannelsLastWeightsAgreeWithContiguousOnes) {
  TinyNet a, b;
  {
    torch::NoGradGuard no_grad;
    for (const auto& item : a->named_parameters())
      b->named_parameters()[item.key()].copy_(item.value());
    b->conv->weight.set_data(b->conv->weight.contiguous(at::MemoryFormat::ChannelsLast));
  }
  ExponentialMovingAverage of_a(a, ema(0.1)), of_b(b, ema(0.1));
  for (int i = 0; i < 3; ++i) {
    torch::NoGradGuard no_grad;
    a->conv->weight.add_(1);
    b->conv->weight.add_(1);
    of_a.update_parameters(a);
    of_b.update_parameters(b);
  }
  EXPECT_TRUE(at::equal(average_of(of_a, "conv.weight"), average_of(of_b, "conv.weight")));
}

// ---- kinds of models

TEST(Average, TakesEveryKindOfModel) {
  TinyNet holder;
  const std::shared_ptr<TinyNetImpl>& shared = holder.ptr();
  torch::nn::Sequential sequential(torch::nn::Linear(2, 2), torch::nn::BatchNorm1d(2));
  ExponentialMovingAverage a(holder), b(shared), c(*shared), d(sequential);
  a.update_parameters(holder);
  b.update_parameters(shared);
  c.update_parameters(*shared);
  d.update_parameters(sequential);
  EXPECT_EQ(d.named_averages().keys().front(), "0.weight");
}

TEST(Average, WorksOnAModelThatCannotBeClonedExceptForForward) {
  Plain net;
  fill(net, 1);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  fill(net, 3);
  average.update_parameters(net);
  EXPECT_EQ(average_of(average, "inner.weight")[0][0].item<float>(), 2);
  {
    auto guard = average.swap(net);
    EXPECT_EQ(net.weight[0][0].item<float>(), 2);
  }
  EXPECT_EQ(net.weight[0][0].item<float>(), 3);
  EXPECT_EQ(average.state().size(), 3u);
  EXPECT_THAT([&] { average.module(); },
              ThrowsMessage<Error>(testing::AllOf(HasSubstr("Plain"), HasSubstr("Cloneable"),
                                                  HasSubstr("factory"))));
}

TEST(Average, AFactoryGivesAnUncloneableModelAForward) {
  Plain net;
  ExponentialMovingAverage average(net, ema(0.5), [] { return std::make_shared<Plain>(); });
  average.update_parameters(net);
  EXPECT_TRUE(at::equal(average.module<Plain>()->inner->weight, net.inner->weight));
  EXPECT_THAT([&] { average.module<TinyNetImpl>(); }, ThrowsMessage<Error>(HasSubstr("Plain")));
}

TEST(Average, WorksOnATorchScriptModule) {
  torch::jit::Module net("net");
  net.register_parameter("weight", at::ones({2}), false);
  net.register_buffer("count", at::zeros({}, at::kLong));
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.attr("weight").toTensor().fill_(3);
  average.update_parameters(net);
  EXPECT_EQ(average_of(average, "weight")[0].item<float>(), 2);
  {
    auto guard = average.swap(net);
    EXPECT_EQ(net.attr("weight").toTensor()[0].item<float>(), 2);
  }
  EXPECT_EQ(net.attr("weight").toTensor()[0].item<float>(), 3);
  EXPECT_THAT([&] { average.module(); }, ThrowsMessage<Error>(HasSubstr("TorchScript")));
}

TEST(Average, CanBeRegisteredInAnotherModuleAndSavedWithIt) {
  struct Algorithm : torch::nn::Module {
    Algorithm() {
      online = register_module("online", TinyNet());
      target = register_module("target_net",
                               std::make_shared<ExponentialMovingAverage>(online, ema(0.5)));
    }
    TinyNet online{nullptr};
    std::shared_ptr<ExponentialMovingAverage> target;
  } algorithm;
  algorithm.target->update_parameters(algorithm.online);
  const auto buffers = algorithm.named_buffers();
  EXPECT_TRUE(buffers.contains("target_net.steps"));
  EXPECT_TRUE(algorithm.named_parameters().contains("target_net.module.conv.weight"));

  std::stringstream stream;
  torch::serialize::OutputArchive out;
  algorithm.save(out);
  out.save_to(stream);
  Algorithm other;
  torch::serialize::InputArchive in;
  in.load_from(stream);
  other.load(in);
  EXPECT_EQ(other.target->steps(), 1);
  EXPECT_TRUE(at::equal(average_of(*other.target, "fc.weight"),
                        average_of(*algorithm.target, "fc.weight")));
}

TEST(Average, OfAHalfPrecisionModelGoesOnFromWhatAnArchiveHolds) {
  torch::nn::Linear net(1, 1);
  net->to(at::kBFloat16);
  fill(*net, 3);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  std::stringstream stream;
  torch::serialize::OutputArchive out;
  average.save(out);
  out.save_to(stream);
  fill(*net, 1);
  ExponentialMovingAverage other(net, ema(0.5));
  torch::serialize::InputArchive in;
  in.load_from(stream);
  other.load(in);
  EXPECT_EQ(other.steps(), 1);
  EXPECT_EQ(average_of(other, "weight").scalar_type(), at::kFloat);
  EXPECT_EQ(average_of(other, "weight").item<float>(), 3);
}

/// A model whose child is an average that is kept in another dtype than the child's tensors.
struct HalfAlgorithm : torch::nn::Module {
  HalfAlgorithm() {
    online = register_module("online", torch::nn::Linear(1, 1));
    online->to(at::kBFloat16);
    target = register_module("target_net",
                             std::make_shared<ExponentialMovingAverage>(online, ema(0.25)));
    fill(*online, 1);
    target->update_parameters(online);
    fill(*online, 2);
    target->update_parameters(online);  // 1.25
  }
  std::vector<NamedTensor> state() {
    std::vector<NamedTensor> state = ModelRef(*this).tensors();
    for (NamedTensor& item : state) item.tensor = item.tensor.detach().clone();
    return state;
  }
  void load(const std::vector<NamedTensor>& state) {
    const torch::NoGradGuard no_grad;
    const std::vector<NamedTensor> mine = ModelRef(*this).tensors();
    for (size_t i = 0; i < mine.size(); ++i) at::Tensor(mine[i].tensor).copy_(state[i].tensor);
  }
  torch::nn::Linear online{nullptr};
  std::shared_ptr<ExponentialMovingAverage> target;
};

TEST(Average, OfAHalfPrecisionModelIsCurrentInAStateDictOfAModelAroundIt) {
  HalfAlgorithm algorithm;
  const auto state = algorithm.state();
  EXPECT_EQ(state.back().name, "target_net.module.bias");
  EXPECT_EQ(state.back().tensor.item<float>(), 1.25F);
}

TEST(Average, GoesOnFromAStateDictThatWasCopiedIntoAModelAroundIt) {
  HalfAlgorithm algorithm, other;
  algorithm.target->update_parameters(algorithm.online);  // 1.4375
  other.load(algorithm.state());
  EXPECT_EQ(average_of(*other.target, "weight").item<float>(), 1.4375F);
  EXPECT_EQ(other.target->module<torch::nn::LinearImpl>()->weight.item<float>(), 1.4375F);
  other.target->update_parameters(other.online);
  EXPECT_EQ(other.target->steps(), 4);
  EXPECT_EQ(average_of(*other.target, "weight").item<float>(), 1.578125F);
}

TEST(Average, WithinAModelWhoseOwnAverageIsSwappedInStaysAsItIs) {
  HalfAlgorithm algorithm;
  ExponentialMovingAverage whole(algorithm, ema(0.5));
  whole.update_parameters(algorithm);
  algorithm.target->update_parameters(algorithm.online);  // 1.4375
  algorithm.target->refresh_module();
  whole.update_parameters(algorithm);
  {
    const auto guard = whole.swap(algorithm);
    // What an evaluation sees is the average of the target, not the target.
    const auto target = algorithm.target->module<torch::nn::LinearImpl>();
    EXPECT_EQ(target->weight.item<float>(), 1.34375F);
  }
  EXPECT_EQ(average_of(*algorithm.target, "weight").item<float>(), 1.4375F);
  EXPECT_EQ(algorithm.target->steps(), 3);
  EXPECT_EQ(algorithm.target->module<torch::nn::LinearImpl>()->weight.item<float>(), 1.4375F);
}

TEST(Average, CastingItLeavesCountsAndIntegersAlone) {
  TinyNet net;
  net->bn->num_batches_tracked.fill_(70001);
  ExponentialMovingAverage average(net, ema(1e-4).update_buffers(true));
  average.update_parameters(net);
  average.load_state(average.state(), 70001);
  average.to(torch::kHalf);
  EXPECT_EQ(average.steps(), 70001);
  EXPECT_EQ(average_of(average, "bn.num_batches_tracked").item<int64_t>(), 70001);
  EXPECT_EQ(average_of(average, "conv.weight").scalar_type(), at::kFloat);  // exact all the same
  EXPECT_EQ(average.module<TinyNetImpl>()->conv->weight.scalar_type(), at::kHalf);
}

TEST(Average, CastingItKeepsTiedTensorsTied) {
  Tied net;
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  average.to(torch::kDouble);
  fill(net, 4);
  average.update_parameters(net);
  auto module = average.module<Tied>();
  EXPECT_EQ(module->embedding[0].item<double>(), 2);
  EXPECT_EQ(module->output[0].item<double>(), 2);
}

TEST(Average, SeesTensorsThatWereTiedSinceAtRebind) {
  torch::jit::Module net("net");
  net.register_parameter("x", at::zeros({1}), false);
  net.register_parameter("y", at::zeros({1}), false);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.setattr("y", net.attr("x"));
  average.rebind(net);
  net.attr("x").toTensor().fill_(8);
  average.update_parameters(net);
  {
    auto guard = average.swap(net);
    EXPECT_EQ(net.attr("y").toTensor().item<float>(), 4);
  }
  EXPECT_EQ(net.attr("x").toTensor().item<float>(), 8);
}

// ---- state, rebind

TEST(Average, StateRoundTripsWithItsSteps) {
  TinyNet net;
  ExponentialMovingAverage average(net, ema(0.1));
  for (int i = 0; i < 5; ++i) average.update_parameters(net);
  TinyNet other_net;
  ExponentialMovingAverage other(other_net, ema(0.1));
  EXPECT_TRUE(other.load_state(average.state(), average.steps()).clean());
  EXPECT_EQ(other.steps(), 5);
  EXPECT_TRUE(at::equal(average_of(other, "fc.weight"), average_of(average, "fc.weight")));
}

TEST(Average, LoadStateReportsWhatDoesNotFit) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage average(net);
  const LoadReport report =
      average.load_state({{"weight", at::zeros({3, 2})}, {"extra", at::zeros({1})}}, 4);
  EXPECT_EQ(report.missing, std::vector<std::string>{"bias"});
  EXPECT_EQ(report.unexpected, std::vector<std::string>{"extra"});
  EXPECT_THAT(report.text(), HasSubstr("weight [3, 2] instead of [2, 2]"));
}

TEST(Average, SeesAnAddedParameterAtRebind) {
  Plain net;
  fill(net, 1);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.register_parameter("late", at::full({2}, 7.0));
  fill(net, 3);
  average.rebind(net);
  average.update_parameters(net);
  EXPECT_EQ(average_of(average, "weight")[0][0].item<float>(), 2);
  EXPECT_EQ(average_of(average, "late")[0].item<float>(), 3);
}

TEST(Average, ModelWithoutAnAveragedTensorIsRefusedByName) {
  TinyNet net;
  ExponentialMovingAverage average(net);
  torch::nn::Linear other(2, 3);
  EXPECT_THAT([&] { average.update_parameters(other); },
              ThrowsMessage<Error>(HasSubstr("conv.weight")));
}

// ---- bad input

TEST(AverageOptions, OutOfRangeIsRefusedWithTheValueAndTheRange) {
  torch::nn::Linear net(1, 1);
  for (const double momentum :
       {0.0, 1.0, 3.0, -1.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    EXPECT_THAT(
        [&] { ExponentialMovingAverage(net, ema(momentum)); },
        ThrowsMessage<ConfigError>(testing::AllOf(HasSubstr("momentum"), HasSubstr("(0, 1)"))));
  }
  for (const double end : {-0.1, 1.5}) {
    EXPECT_THAT([&] { CosineEMA(net, CosineEMAOptions().max_iters(5).end_momentum(end)); },
                ThrowsMessage<ConfigError>(HasSubstr("end_momentum")));
  }
  for (const int64_t interval : {0, -1}) {
    EXPECT_THAT([&] { ExponentialMovingAverage(net, ema(0.1).interval(interval)); },
                ThrowsMessage<ConfigError>(HasSubstr("interval")));
  }
  EXPECT_THAT([&] { CosineEMA(net, CosineEMAOptions().max_iters(0)); },
              ThrowsMessage<ConfigError>(HasSubstr("max_iters")));
  EXPECT_THAT([&] { CosineEMA(net, CosineEMAOptions()); },
              ThrowsMessage<ConfigError>(HasSubstr("max_iters")));
  EXPECT_THAT([&] { MomentumAnnealingEMA(net, MomentumAnnealingEMAOptions().gamma(-1)); },
              ThrowsMessage<ConfigError>(HasSubstr("gamma")));
  EXPECT_THAT([&] { ExponentialMovingAverage(net, ema(0.1).device("warp")); },
              ThrowsMessage<ConfigError>(HasSubstr("'warp' is not a device")));
}

TEST(AverageOptions, MomentumThatLooksLikeADecayWarns) {
  torch::nn::Linear net(1, 1);
  const auto lines = log_of([&] { ExponentialMovingAverage(net, ema(0.996)); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], testing::AllOf(HasSubstr("0.996"), HasSubstr("0.004"), HasSubstr("NEW")));
}

}  // namespace
}  // namespace polyak::test
