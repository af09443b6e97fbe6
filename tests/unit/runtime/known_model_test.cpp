// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/known_model.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <memory>
#include <new>
#include <optional>

namespace polyak::test {
namespace {

using torch::nn::LinearImpl;

TEST(KnownModel, IsKnownThroughEveryHandle) {
  const auto shared = std::make_shared<LinearImpl>(2, 3);
  LinearImpl local(2, 3);
  const ModelRef list({{"weight", at::zeros({2})}});
  EXPECT_TRUE(KnownModel(shared).is(*shared));
  EXPECT_TRUE(KnownModel(*shared).is(shared));
  EXPECT_TRUE(KnownModel(local).is(local));
  EXPECT_TRUE(KnownModel(list).is(ModelRef(list)));
  EXPECT_FALSE(KnownModel(local).is(shared));
  EXPECT_FALSE(KnownModel(list).is(ModelRef(list.tensors())));
}

TEST(KnownModel, ANewModelAtTheAddressOfOneThatIsGoneIsAnother) {
  std::optional<LinearImpl> local;
  local.emplace(2, 3);
  const KnownModel known(*local);
  const void* const address = ModelRef(*local).identity();
  local.emplace(2, 3);
  ASSERT_EQ(ModelRef(*local).identity(), address);
  EXPECT_FALSE(known.is(*local));
}

TEST(KnownModel, ANewSharedModelAtThatAddressIsAnother) {
  alignas(LinearImpl) static unsigned char place[sizeof(LinearImpl)];
  const auto make = [] {
    return std::shared_ptr<LinearImpl>(new (place) LinearImpl(2, 3),
                                       [](LinearImpl* module) { module->~LinearImpl(); });
  };
  auto shared = make();
  const KnownModel known(shared);
  EXPECT_TRUE(known.is(shared));
  shared.reset();
  shared = make();
  ASSERT_EQ(static_cast<void*>(shared.get()), static_cast<void*>(place));
  EXPECT_FALSE(known.is(shared));
}

TEST(KnownModel, KeepsNoModelAlive) {
  auto shared = std::make_shared<LinearImpl>(2, 3);
  const std::weak_ptr<LinearImpl> module = shared;
  const at::Tensor weight = shared->weight;
  const KnownModel known(shared);
  shared.reset();
  EXPECT_TRUE(module.expired());
  EXPECT_EQ(weight.use_count(), 1u);
}

TEST(KnownModel, StaysTheSameWhenItIsCastOrGetsLayers) {
  torch::nn::Sequential net(torch::nn::Linear(2, 3));
  const KnownModel shared(net);
  net->to(at::kDouble);
  net->push_back(torch::nn::Linear(3, 4));
  EXPECT_TRUE(shared.is(net));

  LinearImpl local(2, 3);
  const KnownModel known(local);
  local.to(at::kDouble);
  local.register_parameter("scale", at::zeros({3}));
  EXPECT_TRUE(known.is(local));
}

TEST(KnownModel, ATorchScriptModuleIsKnownThroughEveryHandle) {
  torch::jit::Module module("net"), other("net");
  for (torch::jit::Module* each : {&module, &other}) {
    each->register_parameter("weight", at::zeros({2}), /*is_buffer=*/false);
  }
  const KnownModel known{ModelRef(module)};
  const torch::jit::Module handle = module;
  EXPECT_TRUE(known.is(ModelRef(handle)));
  EXPECT_FALSE(known.is(ModelRef(other)));
}

}  // namespace
}  // namespace polyak::test
