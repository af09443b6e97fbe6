// SPDX-License-Identifier: Apache-2.0
// Of models that are built at the address of one that is gone, none passes for that one.
#include "polyak/averaging/model_identity.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <utility>

namespace polyak::test {
namespace {

struct Net : torch::nn::Module {
  explicit Net(double value) : Net("weight", at::full({4}, value)) {}
  Net(const std::string& name, const at::Tensor& tensor) { register_parameter(name, tensor); }
};

/// A place for one module at a time.
class Room {
 public:
  template <class... Args>
  std::shared_ptr<Net> owned(Args&&... args) {
    return {new (place_) Net(std::forward<Args>(args)...), [](Net* net) { net->~Net(); }};
  }

 private:
  alignas(Net) unsigned char place_[sizeof(Net)];
};

TEST(ModelIdentity, IsThatOfEveryHandleToTheModelAndOfNoOther) {
  const auto net = std::make_shared<Net>(1), other = std::make_shared<Net>(1);
  const ModelIdentity identity{Model(net)};
  EXPECT_TRUE(identity.is(Model(net)));
  EXPECT_TRUE(identity.is(Model(*net)));
  EXPECT_FALSE(identity.is(Model(other)));
  EXPECT_FALSE(ModelIdentity().is(Model(net)));
  const Model list({{"a", at::ones({1})}});
  const Model copy = list;  // NOLINT: a copy is what this is about
  EXPECT_TRUE(ModelIdentity(list).is(copy));
  EXPECT_FALSE(ModelIdentity(list).is(Model(list.tensors())));
  torch::jit::Module script("net"), second("net");
  EXPECT_TRUE(ModelIdentity(script).is(script));
  EXPECT_FALSE(ModelIdentity(script).is(second));
}

TEST(ModelIdentity, OfAnOwnedModuleEndsWithItThoughAnotherStandsAtItsAddress) {
  Room room;
  auto net = room.owned(1.0);
  const ModelIdentity identity{Model(net)};
  const void* address = net.get();
  net.reset();
  const auto later = room.owned(1.0);
  ASSERT_EQ(later.get(), address);
  EXPECT_FALSE(identity.is(Model(later)));
  EXPECT_FALSE(identity.is(Model(*later)));
}

TEST(ModelIdentity, OfAModuleThatASharedPointerHeldForAWhileIsItsAddress) {
  Net net(1);
  {
    const std::shared_ptr<Net> passing(&net, [](Net*) {});
  }
  EXPECT_TRUE(ModelIdentity(net).is(net));
}

TEST(ModelIdentity, KeepsNoModuleAlive) {
  auto net = std::make_shared<Net>(1);
  const std::weak_ptr<Net> alive = net;
  const ModelIdentity identity{Model(net)};
  net.reset();
  EXPECT_TRUE(alive.expired());
}

}  // namespace
}  // namespace polyak::test
