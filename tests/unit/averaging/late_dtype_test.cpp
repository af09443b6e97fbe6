// SPDX-License-Identifier: Apache-2.0
// Models that are cast after their average was made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/modules/linear.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <functional>
#include <sstream>

#include "polyak/polyak.h"
#include "support/averages.h"
#include "support/tiny_net.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// What float32 cannot hold: 1/3 and its half.
constexpr double kThird = 1.0 / 3;

void fill(torch::nn::Module& net, double value) {
  const torch::NoGradGuard no_grad;
  for (at::Tensor& parameter : net.parameters()) parameter.fill_(value);
}

at::ScalarType held_in(AveragedModel& average) {
  return average.state().front().tensor.scalar_type();
}

/// Averages 0, then, cast, 1/3: 1/6 in the model's new dtype.
struct Cast {
  explicit Cast(at::ScalarType after, at::ScalarType before = at::kFloat,
                const std::string& precision = "default")
      : before(before), average(cast_net(), ema(0.5).precision(parse_precision(precision))) {
    average.update_parameters(net);
    net->to(after);
    fill(*net, kThird);
  }
  torch::nn::Linear& cast_net() {
    net->to(before);
    fill(*net, 0);
    return net;
  }
  at::ScalarType before;
  torch::nn::Linear net{2, 2};
  ExponentialMovingAverage average;
};

TEST(LateDtype, AnUpdateFollowsTheModelAndLosesNothing) {
  Cast cast(at::kDouble);
  cast.average.update_parameters(cast.net);
  EXPECT_EQ(average_of(cast.average, "weight").scalar_type(), at::kDouble);
  EXPECT_EQ(first_of(cast.average), kThird / 2);
  EXPECT_EQ(held_in(cast.average), at::kDouble);
}

TEST(LateDtype, TheModuleRunsBeforeAnyUpdateSawTheCast) {
  Cast cast(at::kDouble);
  const auto target = cast.average.module<torch::nn::LinearImpl>();
  EXPECT_EQ(target->forward(at::ones({1, 2}, at::kDouble)).scalar_type(), at::kDouble);
}

TEST(LateDtype, TheModuleThatSomebodyHoldsFollowsAtTheNextUpdate) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage average(net, ema(0.5));
  const auto target = average.module<torch::nn::LinearImpl>();
  net->to(at::kDouble);
  average.update_parameters(net);
  EXPECT_EQ(target->forward(at::ones({1, 2}, at::kDouble)).scalar_type(), at::kDouble);
}

TEST(LateDtype, EveryCallFollows) {
  using Act = std::function<void(Cast&)>;
  const std::pair<const char*, Act> calls[] = {
      {"state", [](Cast& cast) { EXPECT_EQ(held_in(cast.average), at::kDouble); }},
      {"named_averages", [](Cast& cast) { cast.average.named_averages(); }},
      {"rebind", [](Cast& cast) { cast.average.rebind(cast.net); }},
      {"reset",
       [](Cast& cast) {
         cast.average.reset(cast.net);
         EXPECT_EQ(first_of(cast.average), kThird);
       }},
      {"copy_to",
       [](Cast& cast) {
         cast.average.load_state({{"weight", at::full({2, 2}, kThird / 4, at::kDouble)}}, 3);
         cast.average.copy_to(cast.net);
         EXPECT_EQ(cast.net->weight[0][0].item<double>(), kThird / 4);
       }},
      {"load_state",
       [](Cast& cast) {
         cast.average.load_state({{"weight", at::full({2, 2}, kThird / 4, at::kDouble)}}, 3);
         EXPECT_EQ(first_of(cast.average), kThird / 4);
       }},
      {"save", [](Cast& cast) {
         torch::serialize::OutputArchive archive;
         cast.average.save(archive);
       }}};
  for (const auto& [name, act] : calls) {
    SCOPED_TRACE(name);
    Cast cast(at::kDouble);
    act(cast);
    EXPECT_EQ(average_of(cast.average, "weight").scalar_type(), at::kDouble);
    EXPECT_EQ(cast.average.module<torch::nn::LinearImpl>()->weight.scalar_type(), at::kDouble);
  }
}

TEST(LateDtype, ASwapRoundsNothing) {
  for (const SwapMode mode : {SwapMode::exchange, SwapMode::copy}) {
    Cast cast(at::kDouble);
    cast.average.update_parameters(cast.net);
    {
      const SwapGuard guard = cast.average.swap(cast.net, mode);
      EXPECT_EQ(cast.net->weight.scalar_type(), at::kDouble);
      EXPECT_EQ(cast.net->weight[0][0].item<double>(), kThird / 2);
    }
    EXPECT_EQ(cast.net->weight[0][0].item<double>(), kThird);
  }
}

TEST(LateDtype, ASwapRightAfterTheCastPutsTheAverageInAndTheRawWeightsBack) {
  Cast cast(at::kDouble);
  {
    const SwapGuard guard = cast.average.swap(cast.net);
    EXPECT_EQ(cast.net->weight.scalar_type(), at::kDouble);
    EXPECT_EQ(cast.net->weight[0][0].item<double>(), 0);
  }
  EXPECT_EQ(cast.net->weight[0][0].item<double>(), kThird);
}

TEST(LateDtype, FromHalfToFloatAndBackTheAverageIsFloat32) {
  for (const at::ScalarType half : {at::kHalf, at::kBFloat16}) {
    Cast up(at::kFloat, half);
    up.average.update_parameters(up.net);
    EXPECT_EQ(held_in(up.average), at::kFloat);
    EXPECT_EQ(average_of(up.average, "weight").scalar_type(), at::kFloat);
    EXPECT_EQ(first_of(up.average), static_cast<float>(kThird) / 2);
    EXPECT_TRUE(average_of(up.average, "weight").is_same(up.average.state()[0].tensor));

    Cast down(half);
    down.average.update_parameters(down.net);
    EXPECT_EQ(held_in(down.average), half);
    EXPECT_EQ(average_of(down.average, "weight").scalar_type(), at::kFloat);
    EXPECT_EQ(first_of(down.average), down.net->weight[0][0].item<float>() / 2);
    EXPECT_EQ(down.average.module<torch::nn::LinearImpl>()->weight.scalar_type(), half);
  }
}

TEST(LateDtype, EveryPrecisionKeepsWhatItHad) {
  // Of 1/3 and 1/3 + 2^-30 float32 cannot hold the mean, what compensated and float64 keep can.
  for (const char* precision : {"compensated", "float64"}) {
    torch::nn::Linear net(1, 1);
    fill(*net, 1);
    ExponentialMovingAverage average(net, ema(0.25).precision(parse_precision(precision)));
    average.update_parameters(net);
    fill(*net, 1 + 0x1p-23);
    average.update_parameters(net);
    net->to(at::kDouble);
    EXPECT_EQ(average_of(average, "weight").scalar_type(), at::kDouble) << precision;
    EXPECT_EQ(first_of(average), 1 + 0x1p-25) << precision;
    EXPECT_TRUE(average.compensation().empty());
    net->to(at::kFloat);
    average.update_parameters(net);  // 1 + 2^-23: a quarter of what is left of the way
    const double expected = 1 + 0x1p-25 + (0x1p-23 - 0x1p-25) / 4;
    if (precision == std::string("float64")) {
      EXPECT_EQ(first_of(average), expected);
    } else {
      const at::Tensor lost = average.compensation().front().tensor;
      EXPECT_EQ(first_of(average) + lost[0][0].item<int16_t>() * 0x1p-39, expected);
    }
    EXPECT_EQ(held_in(average), at::kFloat);
  }
}

TEST(LateDtype, TheWholeNumbersThatLibTorchCastsTooFollow) {
  for (const bool update_buffers : {false, true}) {
    TinyNet net;
    net->bn->num_batches_tracked.fill_(70001);
    ExponentialMovingAverage average(net, ema(0.5).update_buffers(update_buffers));
    average.update_parameters(net);
    net->to(at::kDouble);  // the counter is a float64 from here on
    average.update_parameters(net);
    EXPECT_EQ(average_of(average, "bn.num_batches_tracked").scalar_type(), at::kDouble);
    EXPECT_EQ(first_of(average, "bn.num_batches_tracked"), 70001);
    EXPECT_EQ(average_of(average, "bn.running_mean").scalar_type(), at::kDouble);
    const SwapGuard guard = average.swap(net);
    EXPECT_EQ(net->forward(at::ones({2, 1, 4, 4}, at::kDouble)).scalar_type(), at::kDouble);
  }
}

TEST(LateDtype, TiedTensorsStayTied) {
  struct Tied : torch::nn::Module {
    Tied() {
      a = register_parameter("a", at::zeros({2}));
      b = register_parameter("b", a);
    }
    at::Tensor a, b;
  } net;
  ExponentialMovingAverage average(net, ema(0.5), [] { return std::make_shared<Tied>(); });
  average.update_parameters(net);
  net.to(at::kDouble);
  average.update_parameters(net);
  const auto target = average.module<Tied>();
  EXPECT_EQ(target->b.scalar_type(), at::kDouble);
  EXPECT_EQ(target->a.data_ptr(), target->b.data_ptr());
}

TEST(LateDtype, OtherNumbersAreRefusedByNameWhateverCastThem) {
  for (const at::ScalarType dtype : {at::kLong, at::kComplexFloat}) {
    torch::nn::Linear net(1, 1);
    fill(*net, 4);
    ExponentialMovingAverage average(net, ema(0.5));
    average.update_parameters(net);
    at::Tensor weight = net->weight;
    weight.requires_grad_(false).set_data(at::ones({1, 1}, dtype));
    EXPECT_THAT([&] { average.update_parameters(net); },
                ThrowsMessage<Error>(AllOf(HasSubstr("weight"), HasSubstr(at::toString(dtype)))));
    EXPECT_EQ(first_of(average), 4);
    EXPECT_EQ(average.steps(), 1);
  }
}

TEST(LateDtype, ATorchScriptModuleAndAListFollowToo) {
  torch::jit::Module script("net");
  script.register_parameter("weight", at::zeros({2}), false);
  at::Tensor tensor = at::zeros({2});
  for (const ModelRef& model : {ModelRef(script), ModelRef({{"weight", tensor}})}) {
    ExponentialMovingAverage average(model, ema(0.5));
    average.update_parameters(model);
    at::Tensor weight = model.tensors().front().tensor;
    weight.set_data(at::full({2}, kThird, at::kDouble));
    average.update_parameters(model);
    EXPECT_EQ(first_of(average), kThird / 2);
    const SwapGuard guard = average.swap(model);
    EXPECT_EQ(weight[0].item<double>(), kThird / 2);
  }
}

TEST(LateDtype, AnAverageOfAModelAroundAnAverageFollowsBoth) {
  struct Algorithm : torch::nn::Module {
    Algorithm() {
      online = register_module("online", torch::nn::Linear(1, 1));
      target =
          register_module("target", std::make_shared<ExponentialMovingAverage>(online, ema(0.5)));
      target->update_parameters(online);
    }
    torch::nn::Linear online{nullptr};
    std::shared_ptr<ExponentialMovingAverage> target;
  } algorithm;
  ExponentialMovingAverage whole(algorithm, ema(0.5));
  whole.update_parameters(algorithm);
  algorithm.online->to(at::kDouble);  // not the target, which follows
  algorithm.target->update_parameters(algorithm.online);
  whole.update_parameters(algorithm);
  EXPECT_EQ(average_of(whole, "online.weight").scalar_type(), at::kDouble);
  EXPECT_EQ(average_of(whole, "target.module.weight").scalar_type(), at::kDouble);
  algorithm.to(at::kFloat);  // both
  whole.update_parameters(algorithm);
  EXPECT_EQ(average_of(whole, "target.module.weight").scalar_type(), at::kFloat);
  EXPECT_EQ(algorithm.target->steps(), 2);
}

TEST(LateDtype, ACastOfTheAverageAloneHoldsUntilTheModelIsCast) {
  torch::nn::Linear net(1, 1);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  average.to(at::kDouble);
  for (int i = 0; i < 2; ++i) average.update_parameters(net);
  average.rebind(net);
  EXPECT_EQ(held_in(average), at::kDouble);
  net->to(at::kHalf);
  EXPECT_EQ(held_in(average), at::kHalf);
  net->to(at::kBFloat16);
  average.to(at::kFloat);  // the later of the two
  average.update_parameters(net);
  EXPECT_EQ(held_in(average), at::kFloat);
}

TEST(LateDtype, AnArchiveOfAnotherDtypeGivesValuesAndNoDtype) {
  torch::nn::Linear net(1, 1), wide(1, 1);
  wide->to(at::kDouble);
  fill(*wide, 3);
  ExponentialMovingAverage average(net, ema(0.5)), of_wide(wide, ema(0.5));
  of_wide.update_parameters(wide);
  std::stringstream stream;
  torch::serialize::OutputArchive out;
  of_wide.save(out);
  out.save_to(stream);
  torch::serialize::InputArchive in;
  in.load_from(stream);
  average.load(in);
  EXPECT_EQ(average.steps(), 1);
  EXPECT_EQ(first_of(average), 3);
  EXPECT_EQ(average.module<torch::nn::LinearImpl>()->weight.scalar_type(), at::kFloat);
  fill(*net, 5);
  average.update_parameters(net);
  EXPECT_EQ(first_of(average), 4);
}

TEST(LateDtype, AnArchiveThatDoesNotFitIsRefusedAndNothingIsTaken) {
  torch::nn::Linear net(1, 1), other(1, 2);
  fill(*net, 3);
  ExponentialMovingAverage average(net, ema(0.5)), of_other(other, ema(0.5));
  for (int i = 0; i < 2; ++i) average.update_parameters(net);
  std::stringstream stream;
  torch::serialize::OutputArchive out;
  of_other.save(out);
  out.save_to(stream);
  torch::serialize::InputArchive in;
  in.load_from(stream);
  EXPECT_THAT([&] { average.load(in); },
              ThrowsMessage<Error>(AllOf(HasSubstr("weight"), HasSubstr("[2, 1]"))));
  EXPECT_EQ(average.steps(), 2);
  EXPECT_EQ(first_of(average), 3);
}

}  // namespace
}  // namespace polyak::test
