// SPDX-License-Identifier: Apache-2.0
// Layers that come and go while a model is averaged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <optional>
#include <set>

#include "polyak/averaging/average_state.h"
#include "polyak/averaging/layer_changes.h"
#include "polyak/polyak.h"
#include "support/averages.h"
#include "support/layer_cases.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::ThrowsMessage;

std::set<std::string> names_of(const ModelRef& model) {
  std::set<std::string> names;
  for (const NamedTensor& item : model.tensors()) names.insert(item.name);
  return names;
}

std::set<std::string> names_of(const AveragedModel& average) {
  const std::vector<std::string> names = average.named_averages().keys();
  return {names.begin(), names.end()};
}

TEST(LayerChanges, NewOnesStartAsCopiesAndTheOthersGoOnBitForBit) {
  for (const LayerCase& one : layer_cases()) {
    for (const char* precision : {"default", "compensated"}) {
      SCOPED_TRACE(one.name + ", " + precision);
      at::manual_seed(3);
      const auto options = ema(0.3).update_buffers(true).precision(parse_precision(precision));
      LayeredNet net;
      ExponentialMovingAverage average(net, options);
      // The same tensors, whatever becomes of the model's names.
      const ModelRef before(ModelRef(net).tensors());
      ExponentialMovingAverage reference(before, options);
      const auto update = [&] {
        net.step();
        log_of([&] { reference.update_parameters(before); });
        return log_of([&] { average.update_parameters(net); });
      };
      for (int i = 0; i < 3; ++i) update();
      one.change(net);
      ExponentialMovingAverage fresh(net, options);
      const std::vector<std::string> log = update();
      EXPECT_THAT(log, SizeIs(1)) << "one line names the changes";
      for (const std::string& name : one.fresh) EXPECT_THAT(log[0], HasSubstr(name));
      for (const std::string& name : one.gone) EXPECT_THAT(log[0], HasSubstr(name));
      fresh.update_parameters(net);
      for (int i = 0; i < 2; ++i) {
        EXPECT_THAT(update(), IsEmpty());
        fresh.update_parameters(net);
      }
      EXPECT_EQ(average.steps(), 6);
      EXPECT_EQ(names_of(average), names_of(ModelRef(net)));
      for (const auto& item : average.named_averages()) {
        const bool is_new =
            std::find(one.fresh.begin(), one.fresh.end(), item.key()) != one.fresh.end();
        const auto old = one.renamed.find(item.key());
        const std::string name = old == one.renamed.end() ? item.key() : old->second;
        EXPECT_TRUE(at::equal(item.value(), average_of(is_new ? fresh : reference, name)))
            << item.key();
      }
      EXPECT_TRUE(at::equal(average_of(average, "blocks.0.weight"),
                            average_of(reference, "blocks.0.weight")));
    }
  }
}

TEST(LayerChanges, WhatASwapPutsInAndAStateHoldsFollows) {
  for (const LayerCase& one : layer_cases()) {
    SCOPED_TRACE(one.name);
    LayeredNet net;
    ExponentialMovingAverage average(net, ema(0.3));
    for (int i = 0; i < 2; ++i) {
      net.step();
      average.update_parameters(net);
    }
    one.change(net);
    net.step();
    log_of([&] { average.update_parameters(net); });
    EXPECT_EQ(average.state().size(), ModelRef(net).tensors().size());
    std::map<std::string, at::Tensor> raw;
    for (const NamedTensor& item : ModelRef(net).tensors()) raw[item.name] = item.tensor.clone();
    {
      const SwapGuard guard = average.swap(net);
      for (const NamedTensor& item : ModelRef(net).tensors()) {
        EXPECT_TRUE(at::equal(item.tensor, average_of(average, item.name))) << item.name;
      }
    }
    for (const NamedTensor& item : ModelRef(net).tensors()) {
      EXPECT_TRUE(at::equal(item.tensor, raw[item.name])) << item.name;
    }
  }
}

TEST(LayerChanges, AStateOfTheChangedModelResumesInAProgramThatChangesItToo) {
  for (const LayerCase& one : layer_cases()) {
    for (const bool changed_before : {true, false}) {
      SCOPED_TRACE(one.name);
      at::manual_seed(3);
      LayeredNet net;
      ExponentialMovingAverage average(net, ema(0.3));
      net.step();
      average.update_parameters(net);
      one.change(net);
      net.step();
      log_of([&] { average.update_parameters(net); });
      const AverageState state = average.state_dict().clone();

      LayeredNet again;
      if (changed_before) one.change(again);
      ExponentialMovingAverage resumed(again, ema(0.3));
      if (!changed_before) one.change(again);
      log_of([&] { resumed.rebind(again); });
      const LoadReport report = resumed.load_state_dict(state);
      EXPECT_TRUE(report.clean()) << report.text();
      EXPECT_EQ(resumed.steps(), 2);
      for (const auto& item : average.named_averages()) {
        EXPECT_TRUE(at::equal(average_of(resumed, item.key()), item.value())) << item.key();
      }
    }
  }
}

TEST(LayerChanges, OfAnUntiedTensorTheAverageOfBothGoesOn) {
  LayeredNet net;
  ExponentialMovingAverage average(net, ema(0.5));
  const auto fill = [](const at::Tensor& tensor, double value) { tensor.data().fill_(value); };
  fill(net.out, 4);
  average.update_parameters(net);
  const at::Tensor own = net.out.detach().clone().requires_grad_(true);
  LayeredNet::replace_parameter(net, "out", own);
  fill(net.embedding->weight, 8);
  fill(own, 0);
  EXPECT_THAT(log_of([&] { average.update_parameters(net); }), ElementsAre(HasSubstr("tied")));
  EXPECT_EQ(first_of(average, "embedding.weight"), 6);
  EXPECT_EQ(first_of(average, "out"), 2) << "from what it was while they were one";
  LayeredNet::replace_parameter(net, "out", net.embedding->weight);
  fill(net.embedding->weight, 2);
  log_of([&] { average.update_parameters(net); });
  EXPECT_EQ(first_of(average, "out"), 4);
  EXPECT_TRUE(average_of(average, "out").is_same(average_of(average, "embedding.weight")));
}

TEST(LayerChanges, FreezingAndUnfreezingChangesNothing) {
  at::manual_seed(3);
  LayeredNet net;
  ExponentialMovingAverage average(net, ema(0.3));
  const ModelRef before(ModelRef(net).tensors());
  ExponentialMovingAverage reference(before, ema(0.3));
  for (const bool trained : {true, false, true}) {
    for (const auto& parameter : net.body->parameters()) parameter.requires_grad_(trained);
    for (int i = 0; i < 3; ++i) {
      net.step(/*with_frozen=*/false);
      EXPECT_THAT(log_of([&] { average.update_parameters(net); }), IsEmpty());
      reference.update_parameters(before);
    }
  }
  for (const auto& item : average.named_averages()) {
    EXPECT_TRUE(at::equal(item.value(), average_of(reference, item.key()))) << item.key();
  }
}

/// Cloneable, with what reset() makes.
struct SmallImpl : torch::nn::Cloneable<SmallImpl> {
  SmallImpl() { SmallImpl::reset(); }
  void reset() override {
    body = register_module("body", torch::nn::Linear(2, 2));
    head = register_module("head", torch::nn::Linear(2, 2));
  }
  at::Tensor forward(const at::Tensor& input) { return head(body(input)); }
  torch::nn::Linear body{nullptr}, head{nullptr};
};
TORCH_MODULE(Small);

TEST(LayerChanges, TheModuleRunsWhereACloneHasTheNewLayers) {
  Small net;
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net->head = net->replace_module("head", torch::nn::Linear(2, 5));
  log_of([&] { average.update_parameters(net); });
  const at::Tensor input = at::ones({1, 2});
  EXPECT_TRUE(at::equal(average.module<SmallImpl>()->forward(input), net->forward(input)));
}

TEST(LayerChanges, TheModuleSaysWhyItCannotRunWhereACopyWouldHaveTheOldLayers) {
  for (const bool added : {true, false}) {
    Small net;
    ExponentialMovingAverage average(net, ema(0.5), [] { return Small().ptr(); });
    average.update_parameters(net);
    added ? void(net->register_module("late", torch::nn::Linear(2, 2)))
          : net->unregister_module("head");
    log_of([&] { average.update_parameters(net); });
    EXPECT_THAT([&] { average.module(); },
                ThrowsMessage<Error>(AllOf(
                    HasSubstr("no averaged copy to run"),
                    HasSubstr(added ? "lacks late.bias, which was added" : "which was removed"))));
    const SwapGuard guard = average.swap(net);  // the way on
    EXPECT_TRUE(average.is_swapped());
  }
}

TEST(LayerChanges, OfAnotherModelWhatIsMissingIsStillAMistake) {
  const auto net = std::make_shared<LayeredNet>(), other = std::make_shared<LayeredNet>();
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  other->unregister_module("head");
  EXPECT_THAT([&] { average.update_parameters(other); },
              ThrowsMessage<Error>(HasSubstr("lacks averaged tensors: head.weight")));
  other->register_module("head", torch::nn::Linear(4, 6));
  EXPECT_THAT([&] { average.update_parameters(other); },
              ThrowsMessage<Error>(AllOf(HasSubstr("head.weight"), HasSubstr("6x4"))));
  EXPECT_EQ(average.steps(), 1);
  EXPECT_EQ(names_of(average), names_of(ModelRef(net)));
}

TEST(LayerChanges, AModelWithoutAnOwnerIsKnownByTheTensorsThatItStillHas) {
  std::optional<LayeredNet> net(std::in_place);
  ExponentialMovingAverage average(*net, ema(0.5));
  average.update_parameters(*net);
  const void* const address = &*net;
  net.emplace();
  ASSERT_EQ(&*net, address);
  net->unregister_module("head");  // of another model at its address
  EXPECT_THAT([&] { average.update_parameters(*net); },
              ThrowsMessage<Error>(HasSubstr("lacks averaged tensors: head.weight")));
}

TEST(LayerChanges, AnotherKindOfNumbersIsStillRefused) {
  LayeredNet net;
  ExponentialMovingAverage average(net, ema(0.5));
  average.update_parameters(net);
  net.norm->running_mean.set_data(at::ones({7}));  // a buffer, copied
  LayeredNet::replace_parameter(*net.body, "weight",
                                at::ones({9, 3}, at::kComplexFloat).requires_grad_(true));
  EXPECT_THAT([&] { average.update_parameters(net); },
              ThrowsMessage<Error>(AllOf(HasSubstr("body.weight"), HasSubstr("ComplexFloat"))));
  EXPECT_EQ(average.steps(), 1);
}

TEST(LayerChanges, EveryAverageOfAJointUpdateFollowsAndChangesOfEachStepAreLoggedRarely) {
  LayeredNet net;
  ExponentialMovingAverage slow(net, ema(0.1)), fast(net, ema(0.5).exclude({"blocks"}));
  AveragedModel* both[] = {&slow, &fast};
  update_together(both, net);
  size_t lines = 0;
  for (int i = 0; i < 32; ++i) {
    i % 2 ? net.unregister_module("late")
          : void(net.register_module("late", torch::nn::Linear(2, 2)));
    lines += log_of([&] { update_together(both, net); }).size();
    EXPECT_EQ(names_of(slow), names_of(ModelRef(net)));
    EXPECT_EQ(names_of(fast), names_of(ModelRef(net)));
  }
  EXPECT_EQ(lines, 2u * (8 + 2)) << "1 to 8, 16 and 32";
  EXPECT_EQ(fast.coverage().sum(TensorMode::share).tensors, 6);
}

/// A model of a list of layers, which a program makes anew.
struct Blocks : torch::nn::Module {
  explicit Blocks(int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      layers.emplace_back(torch::nn::LinearOptions(3, 3).bias(false));
    register_module("blocks", list());
  }
  torch::nn::ModuleList list() const {
    torch::nn::ModuleList made;
    for (const torch::nn::Linear& layer : layers) made->push_back(layer);
    return made;
  }
  void rebuild() { replace_module("blocks", list()); }
  void step() {
    const torch::NoGradGuard no_grad;
    for (const torch::nn::Linear& layer : layers) layer->weight.add_(at::rand({3, 3}));
  }
  std::vector<torch::nn::Linear> layers;
};

template <class A, class O>
void expect_layers_take_their_averages_along(const O& options) {
  SCOPED_TRACE(O::kName);
  at::manual_seed(5);
  Blocks net(3);
  const ModelRef alone(std::vector<NamedTensor>{{"w", net.layers[1]->weight, false}});
  A average(net, options), reference(alone, options);
  const auto update = [&] {
    net.step();
    reference.update_parameters(alone);
    return log_of([&] { average.update_parameters(net); });
  };
  for (int i = 0; i < 4; ++i) update();
  net.layers.erase(net.layers.begin());
  net.rebuild();
  const std::vector<std::string> first = update();
  ASSERT_THAT(first, SizeIs(1));
  EXPECT_THAT(first[0], HasSubstr("renamed blocks.1.weight -> blocks.0.weight"));
  update();
  EXPECT_TRUE(at::equal(average_of(average, "blocks.0.weight"), average_of(reference, "w")));

  net.layers.insert(net.layers.begin(),
                    torch::nn::Linear(torch::nn::LinearOptions(3, 3).bias(false)));
  net.rebuild();
  const at::Tensor added = net.layers[0]->weight;
  A fresh(ModelRef(std::vector<NamedTensor>{{"w", added, false}}), options);
  update();
  EXPECT_TRUE(at::equal(average_of(average, "blocks.1.weight"), average_of(reference, "w")));
  EXPECT_FALSE(at::equal(average_of(average, "blocks.0.weight"), average_of(reference, "w")));
}

TEST(LayerChanges, ALayerThatMovesTakesItsAverageAlongAndOneInItsPlaceIsNew) {
  expect_layers_take_their_averages_along<ExponentialMovingAverage>(ema(0.3));
  expect_layers_take_their_averages_along<BEMA>(BEMAOptions());
  expect_layers_take_their_averages_along<SlidingWindowAverage>(
      SlidingWindowAverageOptions().window(3));
}

TEST(LayerChanges, TheLineOfTheLogNamesAFewOfEachKind) {
  LayerChanges changes;
  EXPECT_THAT(changes.text(), IsEmpty());
  for (int i = 0; i < 20; ++i) changes.added.push_back("layer" + std::to_string(i));
  changes.removed = {"old"};
  changes.renamed = {"a -> b"};
  EXPECT_THAT(changes.text(), AllOf(HasSubstr("added layer0, "), HasSubstr("and 12 more"),
                                    HasSubstr("removed old (left the average)"),
                                    HasSubstr("renamed a -> b (the average continues)")));
}

}  // namespace
}  // namespace polyak::test
