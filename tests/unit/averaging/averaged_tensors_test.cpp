// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/averaged_tensors.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/utils.h>

#include "polyak/averaging/model_copy.h"
#include "polyak/core/error.h"

namespace polyak::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::ThrowsMessage;

using Settings = AveragedTensors::Settings;

const Settings kStandard{false, Precision::standard, std::nullopt};

/// Two names for one tensor, one of its own, and a buffer.
struct Net : torch::nn::Module {
  Net() {
    tied = register_parameter("a", at::full({2}, 1.0));
    register_parameter("b", tied);
    own = register_parameter("own", at::full({3}, 2.0));
    count = register_buffer("count", at::full({}, 3, at::kLong));
  }
  std::vector<NamedTensor> tensors() { return ModelRef(*this).tensors(); }
  at::Tensor tied, own, count;
};

/// Tensors of an average of the net, and the module that has them too.
struct Averaged {
  explicit Averaged(Net& net, const Settings& settings = kStandard) : tensors(settings) {
    rebuild(net);
  }
  void rebuild(Net& net) {
    module = copy_model(net, net.tensors(), {}, std::nullopt).module;
    tensors.rebuild(net.tensors(), "Net", module);
  }
  at::Tensor average(const std::string& name) const { return tensors.averages()[name]; }
  double first(const std::string& name) const { return average(name).flatten()[0].item<double>(); }

  torch::NoGradGuard no_grad;
  std::shared_ptr<torch::nn::Module> module;
  AveragedTensors tensors;
};

TEST(AveragedTensors, HaveASlotForEachTensorAndANameForEachOfTheModels) {
  Net net;
  const Averaged averaged(net);
  EXPECT_EQ(averaged.tensors.slots().size(), 3u);
  EXPECT_THAT(averaged.tensors.averages().keys(), ElementsAre("a", "b", "own", "count"));
  EXPECT_TRUE(averaged.average("a").is_same(averaged.average("b")));
  const auto parameters = averaged.module->named_parameters();
  EXPECT_EQ(parameters["a"].data_ptr(), parameters["b"].data_ptr());
  EXPECT_FALSE(parameters["own"].requires_grad());
}

TEST(AveragedTensors, ACopyThatLacksANameIsRefusedAndNothingChanges) {
  Net net;
  Averaged averaged(net);
  const uint64_t before = averaged.tensors.revision();
  EXPECT_THAT(
      [&] {
        averaged.tensors.rebuild(net.tensors(), "Net",
                                 std::make_shared<torch::nn::Module>("Empty"));
      },
      ThrowsMessage<Error>(HasSubstr("lacks a;")));
  EXPECT_EQ(averaged.tensors.revision(), before);
  EXPECT_EQ(averaged.first("own"), 2);
}

TEST(AveragedTensors, FollowTensorsThatWereReplacedUnderTheirNames) {
  Net net;
  Averaged averaged(net);
  std::vector<NamedTensor> tensors = net.tensors();
  const uint64_t before = averaged.tensors.revision();
  EXPECT_TRUE(averaged.tensors.rebind(tensors, "Net", false));
  EXPECT_EQ(averaged.tensors.revision(), before) << "the same tensors";
  tensors[2].tensor = at::full({3}, 9.0);
  EXPECT_TRUE(averaged.tensors.rebind(tensors, "Net", false));
  EXPECT_NE(averaged.tensors.revision(), before);
  averaged.tensors.copy_from_model();
  EXPECT_EQ(averaged.first("own"), 9);
}

TEST(AveragedTensors, OtherTiesOrNamesAreNotTheSameTensors) {
  Net net;
  Averaged averaged(net);
  std::vector<NamedTensor> tensors = net.tensors();
  tensors[1].tensor = at::zeros({2});
  EXPECT_FALSE(averaged.tensors.rebind(tensors, "Net", false)) << "no longer tied";
  tensors = net.tensors();
  tensors.push_back({"late", at::zeros({1})});
  EXPECT_FALSE(averaged.tensors.rebind(tensors, "Net", false));
  tensors = net.tensors();
  tensors.erase(tensors.begin() + 2);
  EXPECT_THAT([&] { averaged.tensors.rebind(tensors, "Net", /*same_model=*/false); },
              ThrowsMessage<Error>(HasSubstr("the model Net lacks averaged tensors: own")));
  EXPECT_FALSE(averaged.tensors.rebind(tensors, "Net", /*same_model=*/true)) << "it was removed";
  tensors = net.tensors();
  tensors[2].tensor = at::zeros({4});
  EXPECT_THAT([&] { averaged.tensors.rebind(tensors, "Net", /*same_model=*/false); },
              ThrowsMessage<Error>(HasSubstr("own: has the shape 4")));
  EXPECT_FALSE(averaged.tensors.rebind(tensors, "Net", /*same_model=*/true)) << "it grew";
}

TEST(AveragedTensors, BuiltAnewKeepTheAveragesOfNamesThatStay) {
  for (const Precision precision : {Precision::standard, Precision::compensated}) {
    Net net;
    Averaged averaged(net, {false, precision, std::nullopt});
    averaged.average("own").fill_(5);
    for (const NamedTensor& item : averaged.tensors.residuals()) item.tensor.fill_(7);
    net.register_parameter("late", at::full({1}, 4.0));
    averaged.rebuild(net);
    EXPECT_EQ(averaged.first("own"), 5);
    EXPECT_EQ(averaged.first("late"), 4);
    for (const NamedTensor& item : averaged.tensors.residuals()) {
      EXPECT_EQ(item.tensor.flatten()[0].item<int64_t>(), item.name == "late" ? 0 : 7) << item.name;
    }
  }
}

TEST(AveragedTensors, ValuesThatOthersWroteIntoTheModuleReachAveragesThatAreApart) {
  Net net;
  Averaged averaged(net, {false, Precision::float64, std::nullopt});
  averaged.module->named_parameters()["own"].fill_(8);
  EXPECT_EQ(averaged.first("own"), 2);
  averaged.tensors.sync_from_module();
  EXPECT_EQ(averaged.first("own"), 8);
  averaged.average("own").fill_(6);
  averaged.tensors.refresh_module();
  EXPECT_EQ(averaged.module->named_parameters()["own"][0].item<float>(), 6);
}

TEST(AveragedTensors, TakeValuesByNameAndReportWhatDoesNotFit) {
  Net net;
  Averaged averaged(net);
  const LoadReport report = averaged.tensors.load({{"a", at::full({2}, 4.0)},
                                                   {"own", at::zeros({4})},
                                                   {"count", at::zeros({})},
                                                   {"other", at::zeros({1})}});
  EXPECT_EQ(averaged.first("b"), 4);
  EXPECT_EQ(averaged.first("own"), 2);
  EXPECT_THAT(report.missing, ElementsAre("b"));
  EXPECT_THAT(report.unexpected, ElementsAre("other"));
  EXPECT_THAT(report.mismatched,
              ElementsAre("own [4] instead of [3]", "count in Float instead of Long"));
}

TEST(AveragedTensors, TheModulesTensorsFollowTheModelsDtypeAndTiesStay) {
  Net net;
  Averaged averaged(net);
  net.to(at::kDouble);
  averaged.tensors.follow_model();
  const auto parameters = averaged.module->named_parameters();
  EXPECT_EQ(parameters["own"].scalar_type(), at::kDouble);
  EXPECT_EQ(parameters["a"].data_ptr(), parameters["b"].data_ptr());
  const uint64_t revision = averaged.tensors.revision();
  averaged.tensors.follow_model();
  EXPECT_EQ(averaged.tensors.revision(), revision) << "nothing left to do";
}

TEST(AveragedTensors, ASwapHandsOutTheRawValuesByName) {
  Net net;
  Averaged averaged(net);
  averaged.average("own").fill_(5);
  {
    SwapState state(SwapMode::exchange);
    averaged.tensors.put_into_model(state);
    EXPECT_EQ(net.own[0].item<float>(), 5);
    const std::vector<NamedTensor> raw = averaged.tensors.raw(state);
    ASSERT_EQ(raw.size(), 4u);
    EXPECT_EQ(raw[2].name, "own");
    EXPECT_EQ(raw[2].tensor[0].item<float>(), 2);
    EXPECT_TRUE(raw[3].buffer);
  }
  EXPECT_EQ(net.own[0].item<float>(), 2);
}

TEST(AveragedTensors, NameTheTensorThatIsNotFinite) {
  Net net;
  const Averaged averaged(net);
  EXPECT_EQ(averaged.tensors.find_nonfinite(), nullptr);
  net.own[1] = INFINITY;
  ASSERT_NE(averaged.tensors.find_nonfinite(), nullptr);
  EXPECT_EQ(*averaged.tensors.find_nonfinite(), "own");
}

TEST(AveragedTensors, NameTheAverageThatIsNotFiniteOfAnyKindAndNoBufferThatIsCopied) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    Net net;
    net.register_buffer("mask", at::full({2}, -INFINITY));
    net.to(type);
    const Averaged averaged(net);
    EXPECT_EQ(averaged.tensors.find_nonfinite_average(), nullptr) << type;
    averaged.average("own")[1] = NAN;
    ASSERT_NE(averaged.tensors.find_nonfinite_average(), nullptr) << type;
    EXPECT_EQ(*averaged.tensors.find_nonfinite_average(), "own") << type;
    EXPECT_EQ(averaged.tensors.find_nonfinite(), nullptr) << "the model is fine";
  }
  Net net;
  net.register_parameter("phase", at::ones({2}, at::kComplexFloat));
  const Averaged averaged(net);
  EXPECT_EQ(averaged.tensors.find_nonfinite_average(), nullptr);
  averaged.average("phase").fill_(INFINITY);
  ASSERT_NE(averaged.tensors.find_nonfinite_average(), nullptr);
  EXPECT_EQ(*averaged.tensors.find_nonfinite_average(), "phase");
}

}  // namespace
}  // namespace polyak::test
