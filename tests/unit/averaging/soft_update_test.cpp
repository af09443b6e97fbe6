// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/soft_update.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

torch::nn::Sequential make_network(int64_t seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  torch::nn::Sequential net(torch::nn::Linear(7, 300), torch::nn::BatchNorm1d(300),
                            torch::nn::Linear(300, 41));
  const torch::NoGradGuard no_grad;
  for (const at::Tensor& tensor : net->buffers()) {
    if (tensor.is_floating_point()) tensor.uniform_(1, 2);
  }
  return net;
}

std::vector<at::Tensor> copies_of(const ModelRef& model) {
  std::vector<at::Tensor> copies;
  for (const NamedTensor& item : model.tensors()) copies.push_back(item.tensor.detach().clone());
  return copies;
}

void expect_equal(const ModelRef& model, const std::vector<at::Tensor>& wanted) {
  const std::vector<NamedTensor> tensors = model.tensors();
  ASSERT_EQ(tensors.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_TRUE(at::equal(tensors[i].tensor, wanted[i])) << tensors[i].name;
  }
}

/// A model of one tensor.
struct One : torch::nn::Module {
  explicit One(const at::Tensor& value, const std::string& name = "weight") {
    weight = register_parameter(name, value);
  }
  at::Tensor weight;
};

TEST(SoftUpdate, GivesTheNumbersOfAnAverageOfThatMomentumToTheBit) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const double tau : {0.005, 0.3, 0.75}) {
      for (const SoftUpdateBuffers buffers :
           {SoftUpdateBuffers::copy, SoftUpdateBuffers::average}) {
        const auto target = make_network(1), kept = make_network(1), online = make_network(2);
        for (auto net : {target, kept, online}) net->to(type);
        std::shared_ptr<AveragedModel> average;
        log_of([&] {  // of a momentum above 0.5
          average = std::make_shared<ExponentialMovingAverage>(
              kept, ema(tau).update_buffers(buffers == SoftUpdateBuffers::average));
        });
        average->update_parameters(kept);  // copies the target
        SoftUpdate follow(target, online, buffers);
        for (int i = 0; i < 3; ++i) {
          i == 1 ? soft_update(target, online, tau, buffers) : follow(tau);
          average->update_parameters(online);
          std::vector<at::Tensor> wanted;
          for (const NamedTensor& item : average->state()) wanted.push_back(item.tensor);
          expect_equal(target, wanted);
        }
      }
    }
  }
}

TEST(SoftUpdate, OfOneCopiesEvenOverWhatIsNotFinite) {
  const auto target = make_network(1), online = make_network(2);
  {
    const torch::NoGradGuard no_grad;
    for (const at::Tensor& tensor : target->parameters()) tensor.fill_(NAN);
  }
  soft_update(target, online, 1);
  expect_equal(target, copies_of(online));
}

TEST(SoftUpdate, LeavesTheOnlineNetworkAndGradientsAlone) {
  const auto target = make_network(1), online = make_network(2);
  const auto before = copies_of(online);
  const at::Tensor weight = target->parameters()[0];
  weight.set_requires_grad(false);
  soft_update(target, online, 0.5);
  expect_equal(online, before);
  EXPECT_FALSE(target->parameters()[0].requires_grad());
  EXPECT_TRUE(target->parameters()[1].requires_grad());
  EXPECT_TRUE(target->parameters()[0].is_same(weight));
}

TEST(SoftUpdate, IsSeenByAutograd) {
  One target(at::ones({2})), online(at::zeros({2}));
  const at::Tensor loss = (target.weight * target.weight).sum();
  soft_update(target, online, 0.5);
  EXPECT_THROW(loss.backward(), c10::Error) << "its saved weights were overwritten";
}

TEST(SoftUpdate, PairsTensorsByNameInAnyOrder) {
  struct Two : torch::nn::Module {
    Two(const char* first, const char* second, double a, double b) {
      register_parameter(first, at::full({3}, a));
      register_parameter(second, at::full({3}, b));
    }
  };
  Two target("x", "y", 0, 0), online("y", "x", 8, 4);
  soft_update(target, online, 0.5);
  EXPECT_EQ(target.named_parameters()["x"][0].item<float>(), 2);
  EXPECT_EQ(target.named_parameters()["y"][0].item<float>(), 4);
}

TEST(SoftUpdate, UpdatesATensorOfTwoNamesOnceAndASharedLayerNever) {
  struct Tied : torch::nn::Module {
    Tied(const at::Tensor& a, const at::Tensor& b, const at::Tensor& shared) {
      register_parameter("a", a);
      register_parameter("b", b);
      register_parameter("shared", shared);
    }
  };
  const at::Tensor mine = at::zeros({2}), theirs = at::ones({2}), shared = at::full({2}, 5.0);
  Tied target(mine, mine, shared), online(theirs, theirs, shared);
  soft_update(target, online, 0.25);
  EXPECT_EQ(mine[0].item<float>(), 0.25F);
  EXPECT_EQ(shared[0].item<float>(), 5);
  Tied untied(at::ones({2}), at::ones({2}), shared);
  EXPECT_THAT([&] { soft_update(target, untied, 0.25); },
              ThrowsMessage<Error>(HasSubstr("a and b are one tensor in the target")));
}

TEST(SoftUpdate, KeepsUpWithReplacedLayersAndCasts) {
  auto target = make_network(1), online = make_network(2);
  SoftUpdate follow(target, online);
  follow(0.5);
  online->replace_module("2", torch::nn::Linear(300, 41));
  follow(1);
  expect_equal(target, copies_of(online));
  target->to(at::kDouble);
  online->to(at::kDouble);
  follow(0.5);
  target->replace_module("0", torch::nn::Linear(torch::nn::LinearOptions(7, 300)));
  target->to(at::kDouble);
  follow(1);
  expect_equal(target, copies_of(online));
  online->push_back(torch::nn::Linear(41, 2).ptr());
  EXPECT_THAT([&] { follow(0.5); }, ThrowsMessage<Error>(HasSubstr("the target lacks 3.weight")));
}

TEST(SoftUpdate, TakesModelsOfSeveralDtypesAndListsOfTensors) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kComplexFloat}) {
    One target(at::zeros({5}, type)), online(at::full({5}, 4.0, type));
    soft_update(target, online, 0.25);
    EXPECT_TRUE(at::equal(target.weight, at::full({5}, 1.0, type))) << type;
  }
  One wide(at::zeros({5})), narrow(at::full({5}, 4.0, at::kBFloat16));
  soft_update(wide, narrow, 0.125);
  EXPECT_EQ(wide.weight[4].item<float>(), 0.5F);

  const at::Tensor flat = at::zeros({6}), from = at::ones({6});
  const ModelRef target({{"a", flat.slice(0, 0, 2)}, {"b", flat.slice(0, 2, 6)}});
  const ModelRef online({{"a", from.slice(0, 0, 2)}, {"b", from.slice(0, 2, 6)}});
  SoftUpdate follow(target, online);
  follow(0.5);
  EXPECT_TRUE(at::equal(flat, at::full({6}, 0.5)));
}

TEST(SoftUpdate, RefusesWhatDoesNotFitBeforeAnythingChanges) {
  const auto target = make_network(1), online = make_network(2);
  const auto before = copies_of(target);
  for (const double tau : {0.0, -0.1, 1.5, double(NAN)}) {
    EXPECT_THAT([&] { soft_update(target, online, tau); },
                ThrowsMessage<Error>(HasSubstr("tau is")))
        << tau;
    SoftUpdate follow(target, online);
    EXPECT_THROW(follow(tau), Error) << tau;
  }
  const auto shorter = torch::nn::Sequential(torch::nn::Linear(7, 300));
  EXPECT_THAT([&] { soft_update(target, shorter, 0.5); },
              ThrowsMessage<Error>(AllOf(HasSubstr("the online network lacks 1.weight, 1.bias"),
                                         HasSubstr("and 2 more"))));
  EXPECT_THAT([&] { soft_update(shorter, target, 0.5); },
              ThrowsMessage<Error>(HasSubstr("the target lacks")));
  auto other = make_network(3);
  other->replace_module("2", torch::nn::Linear(300, 40));
  EXPECT_THAT([&] { soft_update(target, other, 0.5); },
              ThrowsMessage<Error>(AllOf(HasSubstr("2.weight: is [41, 300] in the target"),
                                         HasSubstr("[40, 300] in the online network"))));
  expect_equal(target, before);
  One real(at::zeros({2}));
  struct Integers : torch::nn::Module {
    Integers() { register_buffer("weight", at::zeros({2}, at::kLong)); }
  } whole;
  EXPECT_THAT([&] { soft_update(real, whole, 0.5); }, ThrowsMessage<Error>(HasSubstr("cast one")));
  One sparse(at::eye(2).to_sparse()), dense(at::eye(2));
  EXPECT_THAT([&] { soft_update(dense, sparse, 0.5); }, ThrowsMessage<Error>(HasSubstr("sparse")));
}

}  // namespace
}  // namespace polyak::test
