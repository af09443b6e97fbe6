// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/model_binding.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ModelBinding, IsCurrentUntilAModuleOfTheModelIsReplaced) {
  torch::nn::Sequential net(torch::nn::Linear(2, 2), torch::nn::Linear(2, 2));
  ModelBinding binding;
  EXPECT_FALSE(binding.is_current(net)) << "bound to nothing yet";
  binding.bind(net);
  EXPECT_TRUE(binding.is_current(net));
  EXPECT_TRUE(binding.is_current(*net)) << "another handle";
  EXPECT_THAT(binding.model_class(), HasSubstr("Sequential"));
  EXPECT_FALSE(binding.is_current(torch::nn::Linear(2, 2)));
  net->replace_module("1", torch::nn::Linear(2, 2).ptr());
  EXPECT_FALSE(binding.is_current(net));
  binding.bind(net);
  EXPECT_TRUE(binding.is_current(net));
}

TEST(ModelBinding, SeesTheFirstTensorOfAModelThatHadNone) {
  torch::nn::Module net;
  ModelBinding binding;
  binding.bind(net);
  EXPECT_TRUE(binding.is_current(net));
  net.register_parameter("first", at::ones({2}));
  EXPECT_FALSE(binding.is_current(net));
}

TEST(ModelBinding, NamesWhatNobodyTrainsOnceAndOfListsAlone) {
  Slots slots;
  {
    const at::Tensor source = at::ones({2}).requires_grad_(true), average = at::ones({2});
    slots.push_back(
        {"points", source, average, average, {}, false, {}, at::kFloat, c10::Device(at::kCPU)});
  }
  ModelBinding binding;
  torch::nn::Linear net(2, 2);
  binding.bind(net);
  EXPECT_THAT(binding.orphans(slots, 64, /*look_at_gradients=*/true), IsEmpty());
  const ModelRef list({{"points", slots[0].source}});
  binding.bind(list);
  EXPECT_THAT(binding.orphans(slots, 64, /*look_at_gradients=*/false),
              AllOf(HasSubstr("points of the list"), HasSubstr("held by nobody else")));
  EXPECT_THAT(binding.orphans(slots, 128, /*look_at_gradients=*/false), IsEmpty());
}

}  // namespace
}  // namespace polyak::test
