// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/mixed_precision.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/functional/linear.h>

#include <limits>
#include <memory>
#include <vector>

#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/optim_wrapper.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

at::ScalarType type_of_product() {
  const at::Tensor a = at::ones({2, 3}), b = at::ones({4, 3});
  return torch::nn::functional::linear(a, b).scalar_type();
}

TEST(MixedPrecision, ComputesInTheSmallerTypeWithinAScope) {
  EXPECT_EQ(type_of_product(), at::kFloat);
  {
    const AutocastScope outer(at::kBFloat16, c10::kCPU);
    EXPECT_EQ(type_of_product(), at::kBFloat16);
    {
      const AutocastScope inner(std::nullopt, c10::kCPU);
      EXPECT_EQ(type_of_product(), at::kBFloat16);
    }
    EXPECT_EQ(type_of_product(), at::kBFloat16);
  }
  EXPECT_EQ(type_of_product(), at::kFloat);
}

TEST(MixedPrecision, SeesWeightsThatAStepHasChanged) {
  const at::Tensor weight = at::ones({1, 1}).requires_grad_();
  const auto product = [&] {
    const AutocastScope scope(at::kBFloat16, c10::kCPU);
    return torch::nn::functional::linear(at::ones({1, 1}), weight).item<double>();
  };
  EXPECT_EQ(product(), 1);
  weight.data().fill_(2);
  EXPECT_EQ(product(), 2);
}

class LossScaling : public ::testing::Test {
 protected:
  LossScaling() { register_trainer(catalog_); }
  std::unique_ptr<OptimWrapper> make(const char* keys) {
    auto wrapper = std::make_unique<OptimWrapper>(
        parse_config(
            fmt::format("{{type: AmpOptimWrapper, optimizer: {{type: SGD, lr: 1}}, {}}}", keys)),
        catalog_, std::vector<NamedTensor>{{"p", p_}});
    wrapper->start(0, 10000);
    return wrapper;
  }
  static double scale_of(const OptimWrapper& wrapper) {
    return wrapper.state_dict().at("loss_scaler").at("scale").as_real();
  }

  Catalog catalog_;
  const at::Tensor p_ = at::zeros({1}).requires_grad_();
};

TEST_F(LossScaling, LeavesOutAStepWhoseGradientsAreNotFinite) {
  const auto wrapper = make("loss_scale: dynamic");
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(wrapper->update((p_ * 2).sum()));
  EXPECT_EQ(p_.item<float>(), -2);  // the gradient without the factor
  EXPECT_EQ(scale_of(*wrapper), 65536);
  EXPECT_FALSE(wrapper->update((p_ * infinity).sum()));  // a pretended overflow
  EXPECT_EQ(p_.item<float>(), -2);
  EXPECT_EQ(scale_of(*wrapper), 32768);
  EXPECT_TRUE(wrapper->update((p_ * 1).sum()));  // without what the left out step gathered
  EXPECT_EQ(p_.item<float>(), -3);
}

TEST_F(LossScaling, GrowsAfterStepsWithoutAnOverflowAndGoesOnFromItsState) {
  const auto first = make("loss_scale: dynamic");
  for (int i = 0; i < 1500; ++i) first->update((p_ * 0).sum());
  const auto second = make("loss_scale: dynamic");
  second->load_loss_scale(first->state_dict());
  for (int i = 0; i < 499; ++i) second->update((p_ * 0).sum());
  EXPECT_EQ(scale_of(*second), 65536);
  second->update((p_ * 0).sum());
  EXPECT_EQ(scale_of(*second), 2 * 65536);
}

TEST_F(LossScaling, IsAConstantOrNothingIfTheConfigSaysSo) {
  const auto constant = make("loss_scale: 8");
  constant->update((p_ * std::numeric_limits<float>::infinity()).sum());
  EXPECT_EQ(scale_of(*constant), 8);
  const auto none = make("dtype: bfloat16");
  EXPECT_FALSE(none->state_dict().contains("loss_scaler"));
  EXPECT_EQ(none->autocast_dtype(), at::kBFloat16);
}

TEST_F(LossScaling, ScalesAccumulatedGradientsOnce) {
  const auto wrapper =
      make("loss_scale: dynamic, accumulative_counts: 2, clip_grad: {max_norm: 2}");
  EXPECT_FALSE(wrapper->update((p_ * 2).sum()));
  EXPECT_TRUE(wrapper->update((p_ * 6).sum()));
  EXPECT_NEAR(p_.item<float>(), -2, 1e-5);  // the mean is 4, which is clipped
}

TEST_F(LossScaling, RefusesKeysThatHaveNoEffect) {
  EXPECT_THAT([&] { make("dtype: float16"); },
              ThrowsMessage<ConfigError>(HasSubstr("dtype: float16 needs a GPU")));
  EXPECT_THAT(
      [&] { make("loss_scale: -1"); },
      ThrowsMessage<ConfigError>(HasSubstr("loss_scale: must be dynamic, or a number above 0")));
  EXPECT_THAT(
      [&] {
        OptimWrapper(parse_config("{optimizer: {type: SGD, lr: 1}, dtype: bfloat16}"), catalog_,
                     {{"p", p_}});
      },
      ThrowsMessage<ConfigError>(HasSubstr("dtype: is a key of type: AmpOptimWrapper")));
}

}  // namespace
}  // namespace polyak
