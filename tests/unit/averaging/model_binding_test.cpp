// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/model_binding.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <functional>
#include <memory>

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

TEST(ModelBinding, SeesTheFirstEntryOfAnyPartThatHadNone) {
  const auto made = [] {
    auto net = std::make_shared<torch::nn::Module>("Net");
    net->register_module("part", std::make_shared<torch::nn::Module>("Part"))
        ->register_module("leaf", torch::nn::Linear(1, 1));
    return net;
  };
  const std::function<void(torch::nn::Module&)> changes[] = {
      [](auto& leaf) { leaf.register_parameter("late", at::ones({1})); },
      [](auto& leaf) { leaf.register_buffer("late", at::ones({1})); },
      [](auto& leaf) { leaf.register_module("late", std::make_shared<torch::nn::Module>()); }};
  for (const auto& change : changes) {
    for (const char* path : {"part", "part.leaf"}) {
      const auto net = made();
      ModelBinding binding;
      binding.bind(net);
      EXPECT_TRUE(binding.is_current(net));
      change(*net->named_modules()[path]);
      EXPECT_FALSE(binding.is_current(net));
    }
  }
}

TEST(ModelBinding, TheModelIsTheSameWhateverBecameOfItsLayers) {
  const auto owned = std::make_shared<torch::nn::Module>("Net");
  owned->register_parameter("a", at::ones({1}));
  torch::nn::Module local("Net");
  local.register_parameter("a", at::ones({1}));
  for (const ModelRef& model : {ModelRef(owned), ModelRef(local)}) {
    Slots slots;
    slots.push_back({"a", model.tensors()[0].tensor, {}, {}, {}, false, {}, at::kFloat, at::kCPU});
    ModelBinding binding;
    binding.bind(model);
    EXPECT_TRUE(binding.is_of(model, slots, model.tensors()));
    EXPECT_EQ(binding.is_of(model, slots, {}), model.nn_module() == owned.get())
        << "an address alone does not tell";
    EXPECT_FALSE(binding.is_of(torch::nn::Linear(1, 1), slots, model.tensors()));
  }
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
