// SPDX-License-Identifier: Apache-2.0
// What makes an update fast must not make it wrong: sharing, precision, skipping.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "polyak/polyak.h"
#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// A model of nothing but tensors, as unlike each other as they come.
struct Mixed : torch::nn::Module {
  Mixed() {
    add("large", at::randn({300, 401}));
    add("channels_last", at::randn({4, 3, 5, 5}).contiguous(at::MemoryFormat::ChannelsLast));
    add("transposed", at::randn({7, 9}).t());
    add("strided", at::randn({40}).slice(0, 0, 40, 2));
    add("double", at::randn({33}, at::kDouble));
    add("half", at::randn({77}).to(at::kHalf));
    add("bfloat16", at::randn({500}).to(at::kBFloat16));
    add("complex", at::randn({6}, at::kComplexFloat));
    add("empty", at::zeros({0, 4}));
    add("scalar", at::randn({}));
    for (int i = 0; i < 50; ++i) add("small" + std::to_string(i), at::randn({i}));
    register_buffer("mean", at::randn({64}));
    register_buffer("count", at::zeros({}, at::kLong));
  }
  void add(const std::string& name, const at::Tensor& value) { register_parameter(name, value); }
  /// Another step of training, the same for every model with the same seed.
  void change(int64_t seed) {
    torch::NoGradGuard no_grad;
    at::manual_seed(seed);
    for (const at::Tensor& parameter : parameters()) parameter.add_(at::randn_like(parameter), 0.1);
    for (const auto& buffer : named_buffers()) buffer.value().add_(1);
  }
};

void expect_same(const AveragedModel& a, const AveragedModel& b) {
  EXPECT_EQ(a.steps(), b.steps());
  for (const auto& item : a.named_averages()) {
    const at::Tensor other = average_of(b, item.key());
    EXPECT_EQ(item.value().scalar_type(), other.scalar_type()) << item.key();
    EXPECT_TRUE(at::equal(item.value(), other)) << item.key();
  }
}

// ---- work shared out

TEST(Update, GivesTheSameBitsOnAnyNumberOfThreads) {
  const int before = at::get_num_threads();
  std::vector<std::unique_ptr<AveragedModel>> results;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    at::manual_seed(0);
    Mixed net;
    auto average = std::make_unique<ExponentialMovingAverage>(net, ema(0.1).update_buffers(true));
    for (int i = 0; i < 4; ++i) {
      net.change(i);
      average->update_parameters(net);
    }
    results.push_back(std::move(average));
  }
  at::set_num_threads(before);
  expect_same(*results[0], *results[1]);
  expect_same(*results[0], *results[2]);
}

TEST(Update, AgreesWithTheFormulaForEveryKindOfTensor) {
  at::manual_seed(0);
  Mixed net;
  ExponentialMovingAverage average(net, ema(0.1).update_buffers(true));
  std::map<std::string, at::Tensor> exact;
  for (int i = 0; i < 5; ++i) {
    net.change(i);
    average.update_parameters(net);
    for (const NamedTensor& item : ModelRef(net).tensors()) {
      const bool complex = item.tensor.is_complex();
      const at::Tensor value = item.tensor.detach().to(complex ? at::kComplexDouble : at::kDouble);
      at::Tensor& mean = exact[item.name];
      const bool integer = item.tensor.scalar_type() == at::kLong;
      mean = i == 0 || integer ? value.clone() : mean + (value - mean) * 0.1;
    }
  }
  for (const auto& [name, value] : exact) {
    const at::Tensor got = average_of(average, name).detach().to(value.scalar_type());
    if (value.numel() == 0) continue;
    EXPECT_LT((got - value).abs().max().item<double>(), 1e-6) << name;
  }
}

TEST(Update, SeesStorageThatWasReplacedOnEitherSide) {
  at::manual_seed(0);
  torch::nn::Linear net(64, 64);
  ExponentialMovingAverage average(net, ema(0.1));
  at::Tensor exact;
  for (int i = 0; i < 20; ++i) {
    torch::NoGradGuard no_grad;
    net->weight.add_(at::randn({64, 64}));
    if (i % 3 == 1) net->weight.set_data(net->weight.clone());
    if (i % 3 == 2) net->weight.set_data(net->weight.t());  // the same memory in another order
    if (i % 4 == 2) {
      // There and back: the last storage may stand where the first one stood.
      auto module = average.module<torch::nn::LinearImpl>();
      module->to(at::kDouble);
      module->to(at::kFloat);
    }
    average.update_parameters(net);
    const at::Tensor value = net->weight.detach().to(at::kDouble);
    exact = i == 0 ? value.clone() : exact + (value - exact) * 0.1;
    EXPECT_LT((average_of(average, "weight") - exact).abs().max().item<double>(), 1e-5) << i;
  }
}

// Was refused, until averages followed layers that change: what grows in place starts as a copy.
TEST(Update, OfAShapeThatChangedInPlaceStartsAsACopyAndSaysSo) {
  torch::nn::Linear net(4, 4);
  ExponentialMovingAverage average(net, ema(0.1));
  average.update_parameters(net);
  const at::Tensor weight = average_of(average, "weight").clone();
  net->bias.set_data(at::ones({1}));
  EXPECT_THAT(log_of([&] { average.update_parameters(net); }),
              ElementsAre(HasSubstr("of another shape bias (averaged from a copy on)")));
  EXPECT_EQ(average.steps(), 2);
  EXPECT_TRUE(at::equal(average_of(average, "bias"), at::ones({1})));
  EXPECT_TRUE(at::equal(average_of(average, "weight"), weight));
}

TEST(Update, SeesAMatrixThatWasTransposedInPlace) {
  torch::NoGradGuard no_grad;
  torch::nn::Linear net(3, 3);  // square: neither storage, size nor dtype tells
  ExponentialMovingAverage average(net, ema(0.25));
  average.update_parameters(net);
  const at::Tensor before = average_of(average, "weight").clone();
  net->weight.t_();
  average.update_parameters(net);
  EXPECT_TRUE(at::allclose(average_of(average, "weight"), before * 0.75 + net->weight * 0.25));
}

TEST(Update, AveragesLieSideBySideWithStoragesOfTheirOwn) {
  const auto place = [](const at::Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.data_ptr());
  };
  for (const int64_t width : {4, 1024}) {  // less than a huge page, and some of them
    torch::nn::Linear net(width, width);
    at::Tensor kept;
    {
      ExponentialMovingAverage average(net, ema(0.5));
      average.update_parameters(net);
      for (const bool moved : {false, true}) {
        if (moved) average.to(at::kCPU);
        const at::Tensor weight = average_of(average, "weight"), bias = average_of(average, "bias");
        EXPECT_EQ(weight.storage().nbytes(), weight.nbytes());
        EXPECT_EQ(bias.storage_offset(), 0);
        EXPECT_EQ(place(bias) - place(weight), weight.nbytes());
        EXPECT_EQ(place(weight) % 64, 0u);
        kept = bias;
      }
    }
    EXPECT_TRUE(at::equal(kept, net->bias));  // lives on without the average
  }
}

TEST(Update, LargeAveragesComeToNewPagesWithTheModel) {
  const auto elements_into_page = [](const at::Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 4096 / tensor.element_size() % 1024;
  };
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    torch::nn::Linear net(1024, 1024);
    net->to(dtype);
    constexpr int64_t kSize = 1 << 20;
    const at::Tensor weight = at::empty({kSize + 96}, dtype).narrow(0, 96, kSize);
    net->weight.set_data(weight.fill_(0.5).view({1024, 1024}));
    ExponentialMovingAverage average(net, ema(0.5));
    EXPECT_EQ(elements_into_page(average_of(average, "weight")), elements_into_page(net->weight));
  }
}

TEST(Update, WithWeightZeroLeavesTheAverageAloneWhateverTheModelHolds) {
  Mixed net;
  CosineEMA average(net, CosineEMAOptions().momentum(0.5).max_iters(2));
  for (int i = 0; i < 2; ++i) average.update_parameters(net);
  const at::Tensor before = average_of(average, "large").clone();
  {
    torch::NoGradGuard no_grad;
    for (const at::Tensor& parameter : net.parameters()) {
      parameter.fill_(std::numeric_limits<double>::infinity());
    }
  }
  for (int i = 0; i < 2; ++i) average.update_parameters(net);  // beyond K
  EXPECT_TRUE(at::equal(average_of(average, "large"), before));
  for (const auto& item : average.named_averages()) {
    if (!item.value().is_floating_point() || item.key() == "mean") continue;
    EXPECT_TRUE(item.value().isfinite().all().item<bool>()) << item.key();
  }
}

// ---- several averages in one pass

TEST(UpdateTogether, GivesTheBitsOfSeparateUpdates) {
  at::manual_seed(0);
  Mixed net;
  auto make = [&] {
    std::vector<std::unique_ptr<AveragedModel>> averages;
    averages.push_back(std::make_unique<ExponentialMovingAverage>(net, ema(0.1)));
    averages.push_back(std::make_unique<CosineEMA>(
        net, CosineEMAOptions().momentum(0.3).max_iters(10).interval(2).update_buffers(true)));
    averages.push_back(std::make_unique<StochasticWeightAverage>(
        net, StochasticWeightAverageOptions().precision(Precision::float64)));
    averages.push_back(std::make_unique<ExponentialMovingAverage>(
        net, ema(0.7).precision(Precision::compensated)));
    return averages;
  };
  const auto together = make();
  const auto apart = make();
  for (int i = 0; i < 7; ++i) {
    net.change(i);
    std::vector<AveragedModel*> pointers;
    pointers.reserve(together.size());
    for (const auto& average : together) pointers.push_back(average.get());
    update_together(pointers, net);
    for (const auto& average : apart) average->update_parameters(net);
  }
  for (size_t i = 0; i < together.size(); ++i) expect_same(*together[i], *apart[i]);
}

TEST(UpdateTogether, RefusesNullAndTwiceBeforeAnythingChanged) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage a(net, ema(0.1)), b(net, ema(0.2));
  EXPECT_THAT(
      [&] {
        update_together({&a, nullptr}, net);
      },
      ThrowsMessage<Error>(HasSubstr("average 1 is a null pointer")));
  EXPECT_THAT(
      [&] {
        update_together({&a, &b, &a}, net);
      },
      ThrowsMessage<Error>(HasSubstr("given twice, as 0 and 2")));
  EXPECT_EQ(a.steps() + b.steps(), 0);
}

// ---- precision

TEST(Precision, CompensatedAndFloat64MoveWhereFloat32StandsStill) {
  std::map<std::string, double> error;
  for (const std::string precision : {"default", "compensated", "float64"}) {
    torch::nn::Linear net(8, 8);
    torch::nn::init::constant_(net->weight, 1.0);
    ExponentialMovingAverage average(net, ema(1e-6).precision(parse_precision(precision)));
    average.update_parameters(net);
    torch::nn::init::constant_(net->weight, 1.01);
    log_of([&] {
      for (int i = 0; i < 10000; ++i) average.update_parameters(net);
    });
    const double exact = 1.01 - 0.01 * std::pow(1 - 1e-6, 10000);
    const double got = average_of(average, "weight")[0][0].item<double>();
    error[precision] = std::abs(got - exact);
    EXPECT_EQ(average.module<torch::nn::LinearImpl>()->weight.scalar_type(), at::kFloat);
    auto guard = average.swap(net);
    EXPECT_EQ(net->weight.scalar_type(), at::kFloat);
    EXPECT_FLOAT_EQ(net->weight[0][0].item<float>(), static_cast<float>(got));
  }
  EXPECT_GT(error["default"], 5e-5);
  EXPECT_LT(error["compensated"], 1e-7);
  EXPECT_LT(error["float64"], 1e-10);
}

TEST(Precision, CompensationOfTensorsThatNoKernelTakesIsTheSame) {
  // Same numbers, one tensor with gaps between them.
  struct Pair : torch::nn::Module {
    Pair() {
      const at::Tensor values = at::randn({501});
      dense = register_parameter("dense", values.clone());
      strided = register_parameter("strided", at::zeros({1002}).slice(0, 0, 1002, 2));
      torch::NoGradGuard no_grad;
      strided.copy_(values);
    }
    at::Tensor dense, strided;
  };
  at::manual_seed(3);
  Pair net;
  ExponentialMovingAverage average(net, ema(1e-3).precision(Precision::compensated));
  average.update_parameters(net);
  for (int i = 0; i < 200; ++i) {
    torch::NoGradGuard no_grad;
    const at::Tensor step = at::randn({501}) * 0.01;
    net.dense.add_(step);
    net.strided.add_(step);
    average.update_parameters(net);
  }
  const at::Tensor apart = average_of(average, "dense") - average_of(average, "strided");
  EXPECT_LT(apart.abs().max().item<double>(), 3e-7);
  ASSERT_EQ(average.compensation().size(), 2u);
  for (const NamedTensor& item : average.compensation()) {
    EXPECT_EQ(item.tensor.scalar_type(), at::kShort);
    EXPECT_GT((item.tensor != 0).sum().item<int64_t>(), 450) << item.name;
  }
}

TEST(Precision, StateAndCompensationTogetherResumeExactly) {
  at::manual_seed(4);
  Mixed net;
  ExponentialMovingAverage average(net, ema(1e-3).precision(Precision::compensated));
  for (int i = 0; i < 20; ++i) {
    net.change(i);
    average.update_parameters(net);
  }
  ExponentialMovingAverage resumed(net, ema(1e-3).precision(Precision::compensated));
  std::vector<NamedTensor> exact;
  for (const auto& item : average.named_averages()) exact.push_back({item.key(), item.value()});
  EXPECT_TRUE(resumed.load_state(exact, average.steps()).clean());
  resumed.load_compensation(average.compensation());
  for (int i = 20; i < 30; ++i) {
    net.change(i);
    average.update_parameters(net);
    resumed.update_parameters(net);
  }
  expect_same(average, resumed);
  for (size_t i = 0; i < average.compensation().size(); ++i) {
    EXPECT_TRUE(at::equal(average.compensation()[i].tensor, resumed.compensation()[i].tensor));
  }
}

TEST(Precision, CastingACompensatedAverageThereAndBackLosesNothing) {
  at::manual_seed(5);
  torch::nn::Linear net(50, 50);
  ExponentialMovingAverage average(net, ema(1e-3).precision(Precision::compensated));
  ExponentialMovingAverage untouched(net, ema(1e-3).precision(Precision::compensated));
  auto step = [&] {
    torch::NoGradGuard no_grad;
    net->weight.add_(at::randn({50, 50}), 0.1);
    average.update_parameters(net);
    untouched.update_parameters(net);
  };
  for (int i = 0; i < 10; ++i) step();
  average.to(torch::kDouble);
  EXPECT_TRUE(average.compensation().empty());
  average.to(torch::kFloat);
  for (int i = 0; i < 10; ++i) step();
  expect_same(average, untouched);
}

TEST(Precision, GoesOnAfterTheAveragedCopyWasCastByItself) {
  for (const auto dtype : {at::kDouble, at::kHalf}) {
    torch::nn::Linear net(3, 5);
    ExponentialMovingAverage average(net, ema(0.5).precision(Precision::compensated));
    for (int i = 0; i < 3; ++i) {
      torch::nn::init::constant_(net->weight, i);
      average.update_parameters(net);
      if (i == 1) average.module<torch::nn::LinearImpl>()->to(dtype);
    }
    EXPECT_EQ(average_of(average, "weight")[2][1].item<float>(), 1.25F);
  }
}

TEST(Precision, AWeightThatCannotMoveTheAverageWarnsOnceWithTheNumbers) {
  torch::nn::Linear net(2, 2);
  auto warnings = [&](auto options) {
    return log_of([&] {
      ExponentialMovingAverage average(net, options);
      for (int i = 0; i < 5; ++i) average.update_parameters(net);
    });
  };
  const auto lines = warnings(ema(1e-7));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("ExponentialMovingAverage"), HasSubstr("1e-07"),
                              HasSubstr("Float"), HasSubstr("60 %"), HasSubstr("compensated")));
  EXPECT_TRUE(warnings(ema(1e-7).precision(Precision::compensated)).empty());
  EXPECT_TRUE(warnings(ema(1e-7).precision(Precision::float64)).empty());
  EXPECT_TRUE(warnings(ema(1e-4)).empty());
  // Rules with a fast start are judged by where they end up.
  EXPECT_EQ(log_of([&] {
              MomentumAnnealingEMA average(net, MomentumAnnealingEMAOptions().momentum(1e-7));
              for (int i = 0; i < 3; ++i) average.update_parameters(net);
            }).size(),
            1u);
  // A schedule that ends at 0 is not stuck, it is done.
  EXPECT_TRUE(log_of([&] {
                CosineEMA average(net, CosineEMAOptions().momentum(0.01).max_iters(4));
                for (int i = 0; i < 8; ++i) average.update_parameters(net);
              }).empty());
  // The reference's way of averaging in half precision is the one that gets stuck in earnest.
  const at::Tensor half = at::ones({4}, at::kBFloat16);
  const auto half_lines = log_of([&] {
    const ExponentialMovingAverage average(net, ema(0.001));
    for (int k = 0; k < 3; ++k) average.avg_func(half, half, k);
  });
  ASSERT_EQ(half_lines.size(), 1u);
  EXPECT_THAT(half_lines[0], AllOf(HasSubstr("BFloat16"), HasSubstr("float32")));
}

// ---- a model that went bad

TEST(SkipNonfinite, LeavesTheAverageAsItWasAndCountsAndSays) {
  for (const double bad : {kNan, std::numeric_limits<double>::infinity()}) {
    for (const std::string where : {"large", "strided", "bfloat16", "complex", "mean", "double"}) {
      at::manual_seed(0);
      Mixed net;
      const bool buffers = where == "mean";
      const auto options = ema(0.5).skip_nonfinite(true).update_buffers(buffers);
      ExponentialMovingAverage average(net, options), together(net, options);
      ExponentialMovingAverage careless(net, ema(0.5));
      ExponentialMovingAverage expected(net, ema(0.5).update_buffers(buffers));
      for (int i = 0; i < 6; ++i) {
        net.change(i);
        torch::NoGradGuard no_grad;
        at::Tensor target =
            where == "mean" ? net.named_buffers()[where] : net.named_parameters()[where];
        const at::Tensor healthy = target.clone();
        if (i % 3 == 1) target.view({-1})[target.numel() - 1].fill_(bad);
        const auto lines = log_of([&] { average.update_parameters(net); });
        EXPECT_EQ(lines.size(), i % 3 == 1 ? 1u : 0u);
        AveragedModel* both[] = {&careless, &together};
        log_of([&] { update_together(both, net); });
        if (i % 3 == 1) {
          EXPECT_THAT(lines[0], AllOf(HasSubstr(where), HasSubstr("NaN"), HasSubstr("skipped")));
        } else {
          expected.update_parameters(net);
        }
        target.copy_(healthy);
      }
      EXPECT_EQ(average.skipped(), 2) << where;
      EXPECT_EQ(average.steps(), 4) << where;
      EXPECT_EQ(careless.steps(), 6);
      expect_same(average, expected);
      expect_same(together, expected);
    }
  }
}

TEST(SkipNonfinite, DoesNotLookAtBuffersThatAreOnlyCopied) {
  // A causal mask is full of infinities, and nothing is wrong with it.
  Mixed net;
  net.register_buffer("mask", at::full({4, 4}, -std::numeric_limits<double>::infinity()).triu(1));
  ExponentialMovingAverage average(net, ema(0.5).skip_nonfinite(true));
  for (int i = 0; i < 3; ++i) average.update_parameters(net);
  EXPECT_EQ(average.skipped(), 0);
  EXPECT_TRUE(at::equal(average_of(average, "mask"), net.named_buffers()["mask"]));
}

TEST(SkipNonfinite, OffPoisonsAsTheReferenceDoes) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  torch::nn::init::constant_(net->bias, kNan);
  average.update_parameters(net);
  EXPECT_TRUE(average_of(average, "bias").isnan().all().item<bool>());
  EXPECT_EQ(average.skipped(), 0);
}

TEST(FindNonfinite, TellsOfTheAverageAndNotOfTheModel) {
  Mixed net;
  ExponentialMovingAverage average(net, ema(0.5)), careful(net, ema(0.5).skip_nonfinite(true));
  EXPECT_EQ(average.find_nonfinite(), "");
  for (AveragedModel* one :
       {static_cast<AveragedModel*>(&average), static_cast<AveragedModel*>(&careful)}) {
    one->update_parameters(net);
  }
  const std::string name = net.named_parameters().back().key();
  {
    const torch::NoGradGuard no_grad;
    net.named_parameters().back().value().fill_(kNan);
  }
  EXPECT_EQ(average.find_nonfinite(), "");
  average.update_parameters(net);
  careful.update_parameters(net);
  EXPECT_EQ(average.find_nonfinite(), name);
  EXPECT_EQ(careful.find_nonfinite(), "");
  const SwapGuard guard = average.swap(net);
  EXPECT_EQ(average.find_nonfinite(), "") << "not looked at while it is in the model";
}

// ---- tensors that are not averaged, devices that are not there

TEST(Average, PreparesNoReplayWhereNothingIsOnAGpu) {
  torch::nn::Linear net(2, 2);
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  EXPECT_THAT([&] { average.prepare_replay(); }, ThrowsMessage<Error>(HasSubstr("CUDA graph")));
  EXPECT_EQ(average.steps(), 1);
  average.fence();  // nothing to wait for
}

TEST(Average, MetaAndSparseTensorsAreRefusedByName) {
  struct Bad : torch::nn::Module {
    explicit Bad(const at::Tensor& value) { register_parameter("weight", value); }
  };
  Bad meta(at::zeros({2}, at::device(at::kMeta)));
  EXPECT_THAT([&] { ExponentialMovingAverage{meta}; },
              ThrowsMessage<Error>(AllOf(HasSubstr("weight"), HasSubstr("meta"))));
  Bad sparse(at::eye(3).to_sparse());
  EXPECT_THAT([&] { ExponentialMovingAverage{sparse}; },
              ThrowsMessage<Error>(AllOf(HasSubstr("weight"), HasSubstr("sparse"))));
}

}  // namespace
}  // namespace polyak::test
