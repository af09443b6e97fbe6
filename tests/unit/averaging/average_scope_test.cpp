// SPDX-License-Identifier: Apache-2.0
// Which tensors are averaged, and what becomes of the others.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <sstream>
#include <unordered_map>

#include "polyak/averaging/average_state.h"
#include "polyak/polyak.h"
#include "support/averages.h"
#include "support/tiny_net.h"
#include "unit/averaging/averaging_testing.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

at::Tensor tensor_of(const ModelRef& model, const std::string& name) {
  for (const NamedTensor& item : model.tensors()) {
    if (item.name == name) return item.tensor;
  }
  throw std::invalid_argument(name);
}

double value_in(const ModelRef& model, const std::string& name) {
  return tensor_of(model, name).flatten()[0].item<double>();
}

bool is_shared(AveragedModel& average, const ModelRef& model, const std::string& name) {
  return tensor_of(average.module(), name).is_alias_of(tensor_of(model, name));
}

/// The bytes of an average's storages that are not the model's.
int64_t own_bytes(AveragedModel& average, const ModelRef& model) {
  std::unordered_map<const void*, int64_t> bytes;
  const auto add = [&](const at::Tensor& tensor) {
    bytes[tensor.storage().unsafeGetStorageImpl()] =
        static_cast<int64_t>(tensor.storage().nbytes());
  };
  for (const NamedTensor& item : average.state()) add(item.tensor);
  for (const auto& item : average.named_averages()) add(item.value());
  for (const NamedTensor& item : average.compensation()) add(item.tensor);
  for (const NamedTensor& item : model.tensors()) {
    bytes.erase(item.tensor.storage().unsafeGetStorageImpl());
  }
  int64_t sum = 0;
  for (const auto& [storage, size] : bytes) sum += size;
  return sum;
}

// ---- excluded

TEST(Exclude, OfHalfAModelSavesExactlyItsBytesInEveryPrecision) {
  for (const char* precision : {"default", "compensated", "float64"}) {
    torch::nn::Sequential net(torch::nn::Linear(64, 64), torch::nn::Linear(64, 64));
    const auto options = ema(0.5).precision(parse_precision(precision));
    ExponentialMovingAverage whole(net, options);
    auto with_scope = options;
    ExponentialMovingAverage half(net, with_scope.exclude({"^0\\."}));
    whole.update_parameters(net);
    half.update_parameters(net);
    EXPECT_EQ(2 * own_bytes(half, net), own_bytes(whole, net)) << precision;
    EXPECT_EQ(half.coverage().sum().bytes, own_bytes(half, net)) << precision;
    EXPECT_EQ(whole.coverage().sum().bytes, own_bytes(whole, net)) << precision;
    EXPECT_EQ(half.coverage().sum(TensorMode::share).numbers, 64 * 64 + 64);
  }
}

TEST(Exclude, LeavesTheAverageOfTheRestAsItIsBitForBit) {
  at::manual_seed(0);
  TinyNet net;
  ExponentialMovingAverage whole(net, ema(0.1)), part(net, ema(0.1).exclude({"^conv"}));
  for (int i = 0; i < 5; ++i) {
    const torch::NoGradGuard no_grad;
    for (const NamedTensor& item : ModelRef(net).tensors()) {
      if (item.tensor.is_floating_point()) item.tensor.add_(at::randn_like(item.tensor));
    }
    AveragedModel* both[] = {&whole, &part};
    update_together(both, net);
  }
  for (const auto& item : whole.named_averages()) {
    const bool excluded = item.key().rfind("conv", 0) == 0;
    const at::Tensor expected = excluded ? tensor_of(net, item.key()).detach() : item.value();
    EXPECT_TRUE(at::equal(average_of(part, item.key()), expected)) << item.key();
  }
  const at::Tensor input = at::ones({1, 1, 4, 4});
  part.module<TinyNetImpl>()->forward(input);
}

TEST(Exclude, SharesTheModelsStorageAlsoAfterThatWasReplacedOrCast) {
  TinyNet net;
  ExponentialMovingAverage average(net, ema(0.5).include({"^fc"}));
  const auto module = average.module<TinyNetImpl>();  // held by the program
  EXPECT_FALSE(is_shared(average, net, "fc.weight"));
  EXPECT_FALSE(is_shared(average, net, "bn.running_mean")) << "buffers are copied";
  average.update_parameters(net);
  net->conv->weight.set_data(at::full_like(net->conv->weight, 7));
  average.update_parameters(net);
  EXPECT_TRUE(module->conv->weight.is_alias_of(net->conv->weight));
  net->conv->weight.set_data(at::full_like(net->conv->weight, 8));
  EXPECT_EQ(first_of(average, "conv.weight"), 8) << "without an update";
  net->to(at::kDouble);
  EXPECT_TRUE(is_shared(average, net, "conv.weight"));
  average.update_parameters(net);
  EXPECT_TRUE(is_shared(average, net, "conv.weight"));
  net->conv->weight.data().fill_(9);
  EXPECT_EQ(first_of(average, "conv.weight"), 9);
  net->replace_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 2, 2)));
  average.update_parameters(net);
  EXPECT_TRUE(is_shared(average, net, "conv.weight")) << "with the new layer";
}

TEST(Exclude, IsCopiedAtEveryUpdateWhereTheDtypeDiffers) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage average(net, ema(0.5).exclude({"bias"}).interval(10));
  average.update_parameters(net);
  average.to(at::kDouble);
  EXPECT_FALSE(is_shared(average, net, "bias"));
  fill(*net, 3);
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "bias"), 3);
  EXPECT_EQ(average_of(average, "bias").scalar_type(), at::kDouble);
  average.to(at::kFloat);
  average.update_parameters(net);
  EXPECT_TRUE(is_shared(average, net, "bias")) << "again";
  average_of(average, "weight").fill_(5);
  EXPECT_EQ(value_in(net, "weight"), 3);
}

TEST(Exclude, ASwapLeavesItAlone) {
  for (const SwapMode mode : {SwapMode::exchange, SwapMode::copy}) {
    torch::nn::Linear net(2, 2);
    ExponentialMovingAverage average(net, ema(0.5).exclude({"bias"}));
    fill(*net, 2);
    average.update_parameters(net);
    fill(*net, 4);
    average.update_parameters(net);
    const void* const bias = net->bias.data_ptr();
    const auto version = net->bias._version();
    {
      const SwapGuard guard = average.swap(net, mode);
      EXPECT_EQ(value_in(net, "weight"), 3);
      EXPECT_EQ(net->bias.data_ptr(), bias);
      const auto raw = average.swapped_out();
      ASSERT_EQ(raw.size(), 2u);
      EXPECT_EQ(raw[0].tensor[0][0].item<float>(), 4);
      EXPECT_EQ(raw[1].tensor[0].item<float>(), 4);
      const torch::NoGradGuard no_grad;
      net->bias.fill_(6);  // what is trained meanwhile stays
    }
    EXPECT_EQ(value_in(net, "weight"), 4);
    EXPECT_EQ(value_in(net, "bias"), 6);
    EXPECT_GT(net->bias._version(), version) << "the fill's";
  }
}

TEST(Exclude, AnotherAverageInTheModelIsNotTheModelsOwnValue) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage all(net, ema(0.5)), part(net, ema(0.5).exclude({"bias"}));
  AveragedModel* both[] = {&all, &part};
  fill(*net, 2);
  update_together(both, net);
  fill(*net, 4);
  update_together(both, net);
  {
    const SwapGuard guard = all.swap(net);
    EXPECT_EQ(value_in(net, "bias"), 3);
    EXPECT_EQ(first_of(part, "bias"), 4);
    part.update_parameters(net);  // must not write the raw weights that are set aside
    EXPECT_EQ(first_of(part, "bias"), 4);
  }
  EXPECT_EQ(value_in(net, "bias"), 4);
  part.update_parameters(net);
  EXPECT_TRUE(is_shared(part, net, "bias"));
}

TEST(Exclude, LoadingAStateOrAnArchiveLeavesTheModelAlone) {
  torch::nn::Linear net(2, 2), other(2, 2);
  fill(*net, 1);
  fill(*other, 5);
  const auto options = ema(0.5).exclude({"bias"});
  ExponentialMovingAverage average(net, options), source(other, options);
  source.update_parameters(other);
  EXPECT_TRUE(average.load_state_dict(source.state_dict()).clean());
  EXPECT_EQ(first_of(average, "weight"), 5);
  EXPECT_EQ(value_in(net, "bias"), 1);
  EXPECT_EQ(first_of(average, "bias"), 1);

  ExponentialMovingAverage third(net, options);
  std::stringstream stream;
  torch::serialize::OutputArchive written;
  source.save(written);
  written.save_to(stream);
  torch::serialize::InputArchive read;
  read.load_from(stream);
  third.load(read);
  EXPECT_EQ(third.steps(), 1);
  EXPECT_EQ(first_of(third, "weight"), 5);
  EXPECT_EQ(value_in(net, "bias"), 1);
  EXPECT_TRUE(is_shared(third, net, "bias"));
}

TEST(Exclude, AStateHoldsTheModelsValueUnderEveryName) {
  TinyNet net;
  ExponentialMovingAverage average(net, ema(0.5).exclude({"conv", "bn"}));
  average.update_parameters(net);
  fill(*net, 3);
  average.update_parameters(net);
  const AverageState state = average.state_dict();
  EXPECT_EQ(state.values.size(), ModelRef(net).tensors().size());
  EXPECT_EQ(state.values[0].name, "conv.weight");
  EXPECT_EQ(state.values[0].tensor.flatten()[0].item<float>(), 3);
}

TEST(Exclude, OfAListAndATorchScriptModuleWorksToo) {
  const at::Tensor points = at::full({2}, 1.0), colours = at::full({2}, 1.0);
  const ModelRef list({{"points", points}, {"colours", colours}});
  ExponentialMovingAverage of_list(list, ema(0.5).exclude({"^col"}));
  torch::jit::Module script("net");
  script.register_parameter("points", points, false);
  script.register_parameter("colours", colours, false);
  ExponentialMovingAverage of_script(script, ema(0.5).exclude({"^col"}));
  for (AveragedModel* average :
       {static_cast<AveragedModel*>(&of_list), static_cast<AveragedModel*>(&of_script)}) {
    const ModelRef model = average == &of_list ? list : ModelRef(script);
    points.fill_(1);
    average->update_parameters(model);
    points.fill_(3);
    colours.fill_(5);
    average->update_parameters(model);
    EXPECT_EQ(first_of(*average, "points"), 2);
    EXPECT_EQ(first_of(*average, "colours"), 5);
    {
      const SwapGuard guard = average->swap(model);
      EXPECT_EQ(points[0].item<float>(), 2);
      EXPECT_EQ(colours[0].item<float>(), 5);
    }
    EXPECT_EQ(points[0].item<float>(), 3);
  }
}

TEST(Exclude, OfTiedTensorsIsOneSlotAndAConflictIsAnError) {
  Tied net;
  ExponentialMovingAverage average(net, ema(0.5).exclude({"embedding", "output"}));
  net.embedding.data().fill_(4);
  average.update_parameters(net);
  EXPECT_EQ(average.coverage().tensors.size(), 1u);
  const auto module = average.module<Tied>();
  EXPECT_TRUE(module->output.is_alias_of(net.output));
  EXPECT_TRUE(module->embedding.is_alias_of(net.output));
  EXPECT_THAT([&] { ExponentialMovingAverage(net, ema(0.5).exclude({"output"})); },
              ThrowsMessage<ConfigError>(AllOf(HasSubstr("embedding and output are one tensor"),
                                               HasSubstr("'average' and 'share'"))));
}

TEST(Exclude, APatternThatMatchesNothingIsRefusedBeforeTraining) {
  TinyNet net;
  EXPECT_THAT([&] { ExponentialMovingAverage(net, ema(0.5).exclude({"^con\\."})); },
              ThrowsMessage<ConfigError>(
                  AllOf(HasSubstr("exclude[0]"), HasSubstr("did you mean 'conv'?"))));
  EXPECT_THAT(
      [&] { ExponentialMovingAverage(net, ema(0.5).exclude({"["})); },
      ThrowsMessage<ConfigError>(HasSubstr("ExponentialMovingAverage: exclude[0]: '[' is not")));
}

TEST(Exclude, SkipNonfiniteLooksAtWhatIsAveraged) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage all(net, ema(0.5).skip_nonfinite(true)),
      part(net, ema(0.5).skip_nonfinite(true).exclude({"bias"}));
  AveragedModel* both[] = {&all, &part};
  update_together(both, net);
  net->bias.data()[0] = INFINITY;
  log_of([&] { update_together(both, net); });
  EXPECT_EQ(all.skipped(), 1);
  EXPECT_EQ(part.skipped(), 0);
  EXPECT_EQ(part.steps(), 2);
}

// ---- kept, and buffers

TEST(Keep, HoldsTheValueOfTheFirstUpdate) {
  torch::nn::Linear net(2, 2);
  fill(*net, 1);
  ExponentialMovingAverage average(net, ema(0.5).keep({"bias"}));
  for (const double value : {2.0, 4.0, 8.0}) {
    fill(*net, value);
    average.update_parameters(net);
    EXPECT_EQ(first_of(average, "bias"), 2);
  }
  EXPECT_EQ(first_of(average, "weight"), 5.5);
  {
    const SwapGuard guard = average.swap(net);
    EXPECT_EQ(value_in(net, "bias"), 2);
  }
  EXPECT_EQ(value_in(net, "bias"), 8);
  average.reset(net);
  EXPECT_EQ(first_of(average, "bias"), 8) << "begins anew";
}

TEST(Buffers, EachGetsWhatItsFirstRuleSays) {
  torch::nn::BatchNorm1d net(2);
  ExponentialMovingAverage average(
      net, ema(0.5).buffers({{"mean", TensorMode::average}, {"running", TensorMode::keep}}));
  for (const double value : {2.0, 4.0}) {
    fill(*net, value);
    average.update_parameters(net);
  }
  EXPECT_EQ(first_of(average, "running_mean"), 3);
  EXPECT_EQ(first_of(average, "running_var"), 2);
  EXPECT_EQ(first_of(average, "num_batches_tracked"), 4) << "copied, as update_buffers says";
}

TEST(Coverage, ListsEachTensorWithItsModeAndBytes) {
  TinyNet net;
  ExponentialMovingAverage average(
      net, ema(0.5).exclude({"^fc"}).keep({"conv.bias"}).precision(Precision::compensated));
  const AverageCoverage coverage = average.coverage();
  EXPECT_EQ(coverage.sum().tensors, 9);
  EXPECT_EQ(coverage.sum(TensorMode::average).tensors, 3);  // conv.weight, bn.weight, bn.bias
  EXPECT_EQ(coverage.sum(TensorMode::average).bytes, (8 + 2 + 2) * 6);
  EXPECT_EQ(coverage.sum(TensorMode::copy).bytes, 2 * 4 + 2 * 4 + 8);
  EXPECT_EQ(coverage.sum(TensorMode::share).bytes, 0);
  EXPECT_EQ(coverage.sum(TensorMode::share).bytes_of_model, (6 + 3) * 4);
  EXPECT_EQ(coverage.sum(TensorMode::keep).bytes, 8);
  EXPECT_THAT(coverage.lines(),
              ElementsAre("averaged: 3 tensors, 12 numbers, 72 bytes in the average: conv.weight, "
                          "bn.weight, bn.bias",
                          HasSubstr("copied at every update: 3 tensors, 5 numbers, 24 bytes"),
                          "shared with the model: 2 tensors, 9 numbers, 0 bytes in the average: "
                          "fc.weight, fc.bias",
                          HasSubstr("kept as at the first update: 1 tensors, 2 numbers")));
}

// ---- frozen

TEST(ShareFrozen, AnUnfreezeStartsAnAverageAsACopy) {
  TinyNet net;
  for (const auto& parameter : net->conv->parameters()) parameter.requires_grad_(false);
  fill(*net, 1);
  ExponentialMovingAverage average(net, ema(0.5).share_frozen(true));
  EXPECT_TRUE(is_shared(average, net, "conv.weight"));
  EXPECT_FALSE(is_shared(average, net, "fc.weight"));
  fill(*net, 2);
  average.update_parameters(net);
  for (const auto& parameter : net->conv->parameters()) parameter.requires_grad_(true);
  fill(*net, 4);
  average.update_parameters(net);
  EXPECT_FALSE(is_shared(average, net, "conv.weight"));
  EXPECT_EQ(first_of(average, "conv.weight"), 4) << "a copy at that update";
  EXPECT_EQ(first_of(average, "fc.weight"), 3);
  fill(*net, 8);
  average.update_parameters(net);
  EXPECT_EQ(first_of(average, "conv.weight"), 6);
  EXPECT_EQ(average.coverage().sum(TensorMode::share).tensors, 0);
}

TEST(ShareFrozen, AFreezeKeepsTheAverage) {
  torch::nn::Linear net(2, 2);
  fill(*net, 2);
  ExponentialMovingAverage average(net, ema(0.5).share_frozen(true)), plain(net, ema(0.5));
  AveragedModel* both[] = {&average, &plain};
  update_together(both, net);
  fill(*net, 4);
  net->weight.requires_grad_(false);
  for (int i = 0; i < 3; ++i) {
    update_together(both, net);
    EXPECT_EQ(first_of(average, "weight"), first_of(plain, "weight"));
  }
  EXPECT_FALSE(is_shared(average, net, "weight"));
  net->register_module("late", torch::nn::Linear(1, 1));
  average.update_parameters(net);
  EXPECT_NE(first_of(average, "weight"), 4) << "also when other layers come";
}

TEST(ShareFrozen, AResumedAverageGoesOnWithTheSameBits) {
  // `weight` was frozen while it was averaged, `bias` from the start.
  torch::nn::Linear net(2, 2);
  fill(*net, 2);
  net->bias.requires_grad_(false);
  const auto options = ema(0.5).share_frozen(true);
  ExponentialMovingAverage average(net, options);
  average.update_parameters(net);
  net->weight.data().fill_(4);
  average.update_parameters(net);
  net->weight.requires_grad_(false);
  const AverageState state = average.state_dict().clone();

  torch::nn::Linear again(2, 2);
  again->weight.requires_grad_(false);
  again->bias.requires_grad_(false);
  ExponentialMovingAverage resumed(again, options);
  EXPECT_TRUE(resumed.load_state_dict(state).clean());
  fill(*again, 4);  // the raw weights are loaded after the averages
  again->bias.data().fill_(2);
  resumed.update_parameters(again);
  average.update_parameters(net);
  EXPECT_EQ(first_of(resumed, "weight"), 3.5);
  EXPECT_EQ(first_of(resumed, "weight"), first_of(average, "weight"));
  EXPECT_FALSE(is_shared(resumed, again, "weight"));
  EXPECT_TRUE(is_shared(resumed, again, "bias"));
}

}  // namespace
}  // namespace polyak::test
