// SPDX-License-Identifier: Apache-2.0
// Of models that are built at the address of one that is gone, none passes for that one.
#include "polyak/averaging/model_identity.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>
#include <torch/utils.h>

#include <functional>
#include <optional>

#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct ValueNet : torch::nn::Module {
  /// Without a tensor.
  ValueNet() = default;
  explicit ValueNet(double value) : ValueNet("weight", at::full({4}, value)) {}
  ValueNet(const std::string& name, const at::Tensor& tensor) { register_parameter(name, tensor); }
};

/// A place for one module at a time.
class Room {
 public:
  template <class... Args>
  std::shared_ptr<ValueNet> owned(Args&&... args) {
    return {new (place_) ValueNet(std::forward<Args>(args)...),
            [](ValueNet* net) { net->~ValueNet(); }};
  }

 private:
  alignas(ValueNet) unsigned char place_[sizeof(ValueNet)];
};

double value_of(const AveragedModel& average, const std::string& name) {
  return average_of(average, name).flatten()[0].item<double>();
}

TEST(ModelIdentity, IsThatOfEveryHandleToTheModelAndOfNoOther) {
  const auto net = std::make_shared<ValueNet>(1), other = std::make_shared<ValueNet>(1);
  const ModelIdentity identity{ModelRef(net)};
  EXPECT_TRUE(identity.is(ModelRef(net)));
  EXPECT_TRUE(identity.is(ModelRef(*net)));
  EXPECT_FALSE(identity.is(ModelRef(other)));
  EXPECT_FALSE(ModelIdentity().is(ModelRef(net)));
  const ModelRef list({{"a", at::ones({1})}});
  const ModelRef copy = list;  // NOLINT: a copy is what this is about
  EXPECT_TRUE(ModelIdentity(list).is(copy));
  EXPECT_FALSE(ModelIdentity(list).is(ModelRef(list.tensors())));
  torch::jit::Module script("net"), second("net");
  EXPECT_TRUE(ModelIdentity(script).is(script));
  EXPECT_FALSE(ModelIdentity(script).is(second));
}

TEST(ModelIdentity, OfAnOwnedModuleEndsWithItThoughAnotherStandsAtItsAddress) {
  Room room;
  auto net = room.owned(1.0);
  const ModelIdentity identity{ModelRef(net)};
  const void* address = net.get();
  net.reset();
  const auto later = room.owned(1.0);
  ASSERT_EQ(later.get(), address);
  EXPECT_FALSE(identity.is(ModelRef(later)));
  EXPECT_FALSE(identity.is(ModelRef(*later)));
}

TEST(ModelIdentity, OfAModuleThatASharedPointerHeldForAWhileIsItsAddress) {
  ValueNet net(1);
  {
    const std::shared_ptr<ValueNet> passing(&net, [](ValueNet*) {});
  }
  EXPECT_TRUE(ModelIdentity(net).is(net));
}

TEST(ModelIdentity, KeepsNoModuleAlive) {
  auto net = std::make_shared<ValueNet>(1);
  const std::weak_ptr<ValueNet> alive = net;
  const ModelIdentity identity{ModelRef(net)};
  net.reset();
  EXPECT_TRUE(alive.expired());
}

// ---- averages

TEST(FreedAddress, AModuleWithoutAnOwnerThatStandsThereIsAveraged) {
  std::optional<ValueNet> net(std::in_place, 4.0);
  ExponentialMovingAverage average(*net, ema(0.5));
  average.update_parameters(*net);
  const void* address = &*net;
  net.emplace(8.0);
  ASSERT_EQ(&*net, address);
  average.update_parameters(*net);
  EXPECT_EQ(value_of(average, "weight"), 6);
  const auto guard = average.swap(*net);
  EXPECT_EQ(net->named_parameters()["weight"][0].item<float>(), 6);
}

TEST(FreedAddress, AModuleThatStandsWhereAnEmptyOneWasIsAveraged) {
  std::optional<ValueNet> net(std::in_place);
  ExponentialMovingAverage average(*net, ema(0.5));
  average.update_parameters(*net);
  net.emplace(8.0);
  average.update_parameters(*net);
  EXPECT_EQ(value_of(average, "weight"), 8);
}

TEST(FreedAddress, AnOwnedModuleThatStandsThereIsAveragedUnderItsOwnNames) {
  Room room;
  auto net = room.owned(4.0);
  const at::Tensor weight = net->named_parameters()["weight"];
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.reset();
  net = room.owned(8.0);
  average.update_parameters(net);
  EXPECT_EQ(value_of(average, "weight"), 6);
  // The very tensors, but as another model's: addresses of tensors do not tell.
  const at::Tensor same = net->named_parameters()["weight"];
  net.reset();
  net = room.owned("renamed", same);
  EXPECT_THAT([&] { average.update_parameters(net); },
              ThrowsMessage<Error>(HasSubstr("lacks averaged tensors: weight")));
}

/// Averages models that are built one after another, each after the last one went, as many times as
/// an allocator may need to give one the address of another.
void expect_each_is_averaged(const std::string& name, const std::function<ModelRef(double)>& make) {
  std::optional<ModelRef> model(make(0));
  ExponentialMovingAverage average(*model, ema(0.5));
  average.update_parameters(*model);
  double expected = 0;
  for (int i = 1; i <= 100; ++i) {
    model.reset();
    model.emplace(make(i));
    average.update_parameters(*model);
    expected = i - (i - expected) * 0.5;  // as the kernel rounds it
    ASSERT_EQ(value_of(average, name), expected) << i;
  }
}

TEST(FreedAddress, AListThatStandsThereIsAveraged) {
  // Two tensors: of one, the vector takes as much memory as the list, and they would change places.
  expect_each_is_averaged("weight", [](double value) {
    return ModelRef(
        {{"weight", at::full({4}, value, at::kDouble)}, {"bias", at::zeros({4}, at::kDouble)}});
  });
}

TEST(FreedAddress, ATorchScriptModuleThatStandsThereIsAveraged) {
  expect_each_is_averaged("weight", [](double value) {
    torch::jit::Module net("net");
    net.register_parameter("weight", at::full({4}, value, at::kDouble), false);
    return ModelRef(net);
  });
}

TEST(FreedAddress, ATorchScriptModuleOfNothingButIntegersIsCopied) {
  const auto make = [](int64_t value) {
    torch::jit::Module net("net");
    net.register_buffer("count", at::full({}, value, at::kLong));
    return net;
  };
  std::optional<torch::jit::Module> net(make(0));
  ExponentialMovingAverage average(*net, ema(0.5));
  for (int64_t i = 1; i <= 20; ++i) {
    net.reset();
    net.emplace(make(i));
    average.update_parameters(*net);
    ASSERT_EQ(value_of(average, "count"), static_cast<double>(i));
  }
}

}  // namespace
}  // namespace polyak::test
