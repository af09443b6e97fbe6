// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <sstream>

#include "polyak/polyak.h"
#include "support/averages.h"

namespace polyak::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

/// A trainer that owns one flat buffer; its model is views of it.
struct FlatTrainer {
  at::Tensor flat = at::zeros({10});
  at::Tensor count = at::zeros({}, at::kLong);
  ModelRef model{{{"layer.weight", flat.slice(0, 0, 6).view({2, 3})},
                  {"layer.bias", flat.slice(0, 6, 8)},
                  {"scale", flat.slice(0, 8, 10), /*buffer=*/true},
                  {"count", count, /*buffer=*/true}}};
};

std::vector<float> values(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().contiguous().view({-1});
  return {flat.data_ptr<float>(), flat.data_ptr<float>() + flat.numel()};
}

std::vector<float> values_of(const AveragedModel& average, const std::string& name) {
  return values(average_of(average, name).to(at::kFloat));
}

TEST(TensorList, IsAveragedUnderItsNamesInItsOrder) {
  FlatTrainer trainer;
  trainer.flat.fill_(1);
  ExponentialMovingAverage average(trainer.model, ema(0.25));
  average.update_parameters(trainer.model);
  trainer.flat.fill_(5);
  trainer.count.fill_(7);
  average.update_parameters(trainer.model);
  std::vector<std::string> names;
  for (const auto& item : average.named_averages()) names.push_back(item.key());
  EXPECT_THAT(names, ElementsAre("layer.weight", "layer.bias", "scale", "count"));
  EXPECT_THAT(values(average_of(average, "layer.bias")), ElementsAre(2, 2));
  EXPECT_THAT(values(average_of(average, "scale")), ElementsAre(5, 5)) << "a buffer is copied";
  EXPECT_EQ(average_of(average, "count").item<int64_t>(), 7);
  EXPECT_EQ(average_of(average, "layer.weight").sizes(), (at::IntArrayRef{2, 3}));
}

TEST(TensorList, ASwapWritesIntoTheBufferAndKeepsAddresses) {
  FlatTrainer trainer;
  ExponentialMovingAverage average(trainer.model, ema(0.5));
  average.update_parameters(trainer.model);
  trainer.flat.copy_(at::arange(10, at::kFloat));
  average.update_parameters(trainer.model);
  std::vector<const void*> before, during;
  for (const NamedTensor& item : trainer.model.tensors()) before.push_back(item.tensor.data_ptr());
  {
    const SwapGuard guard = average.swap(trainer.model);
    for (const NamedTensor& item : trainer.model.tensors())
      during.push_back(item.tensor.data_ptr());
    // The trainer sees it through its flat buffer; the last two are a copied buffer.
    EXPECT_THAT(values(trainer.flat), ElementsAre(0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 8, 9));
    EXPECT_THROW(average.update_parameters(trainer.model), Error);
  }
  EXPECT_EQ(during, before);
  EXPECT_THAT(values(trainer.flat), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
}

TEST(TensorList, AViewThatOverlapsAnotherComesBackWhole) {
  at::Tensor flat = at::arange(4, at::kFloat);
  const ModelRef model({{"all", flat}, {"half", flat.slice(0, 0, 2)}});
  ExponentialMovingAverage average(model, ema(0.5));
  average.update_parameters(model);
  flat.add_(2);
  average.update_parameters(model);
  {
    const SwapGuard guard = average.swap(model);
    EXPECT_THAT(values(flat), ElementsAre(1, 2, 3, 4));
  }
  EXPECT_THAT(values(flat), ElementsAre(2, 3, 4, 5));
}

TEST(TensorList, LeavesThatNeedAGradientCanBeSwapped) {
  at::Tensor weight = at::zeros({3}).requires_grad_(true);
  const ModelRef model({{"weight", weight}});
  ExponentialMovingAverage average(model, ema(0.5));
  average.update_parameters(model);
  {
    torch::NoGradGuard no_grad;
    weight.fill_(4);
  }
  average.update_parameters(model);
  {
    const SwapGuard guard = average.swap(model);
    EXPECT_THAT(values(weight), ElementsAre(2, 2, 2));
    EXPECT_TRUE(weight.requires_grad());
  }
  EXPECT_THAT(values(weight), ElementsAre(4, 4, 4));
}

TEST(TensorList, IsSavedUnderItsNames) {
  FlatTrainer trainer;
  trainer.flat.fill_(3);
  auto average = std::make_shared<ExponentialMovingAverage>(trainer.model, ema(0.5));
  average->update_parameters(trainer.model);
  std::stringstream stream;
  torch::serialize::OutputArchive out;
  average->save(out);
  out.save_to(stream);
  FlatTrainer other;
  ExponentialMovingAverage read(other.model, ema(0.5));
  torch::serialize::InputArchive in;
  in.load_from(stream);
  read.load(in);
  EXPECT_EQ(read.steps(), 1);
  EXPECT_THAT(values(average_of(read, "layer.bias")), ElementsAre(3, 3));
  read.copy_to(other.model);
  EXPECT_THAT(values(other.flat), ElementsAre(3, 3, 3, 3, 3, 3, 3, 3, 3, 3));
}

TEST(TensorList, HasNoModuleToRunAndSaysSo) {
  FlatTrainer trainer;
  ExponentialMovingAverage average(trainer.model, ema(0.5));
  EXPECT_THAT([&] { average.module(); }, ThrowsMessage<Error>(HasSubstr("list of tensors")));
  EXPECT_FALSE(trainer.model.is_training());
  trainer.model.train(true);
  EXPECT_FALSE(trainer.model.is_training()) << "a list has no mode";
}

TEST(TensorList, HandlesOfOneListAreOneModelAndAnotherListIsAnother) {
  FlatTrainer trainer;
  const ModelRef copy = trainer.model;  // NOLINT: a copy is what this is about
  EXPECT_EQ(copy.identity(), trainer.model.identity());
  EXPECT_NE(ModelRef(trainer.model.tensors()).identity(), trainer.model.identity());
}

TEST(TensorList, WrongListsAreRefusedByName) {
  const at::Tensor tensor = at::zeros({2});
  auto make = [](const std::vector<NamedTensor>& tensors) {
    return [tensors] { ModelRef model(tensors); };
  };
  EXPECT_THAT(make({{"a", tensor}, {"", tensor}}), ThrowsMessage<Error>(HasSubstr("no name")));
  EXPECT_THAT(make({{"a", tensor}, {"a", tensor}}),
              ThrowsMessage<Error>(AllOf(HasSubstr("a:"), HasSubstr("twice"))));
  EXPECT_THAT(make({{"a", at::Tensor()}}),
              ThrowsMessage<Error>(AllOf(HasSubstr("a:"), HasSubstr("undefined"))));
}

/// Tensors with an optimizer, which may get others in their place.
struct Points {
  Points() {
    for (const char* name : {"means", "scales"}) {
      tensors.push_back({name, at::ones({3}).requires_grad_(true)});
    }
    optimizer = std::make_unique<torch::optim::SGD>(parameters(), 0.1);
  }
  std::vector<at::Tensor> parameters() const { return {tensors[0].tensor, tensors[1].tensor}; }
  void replace(size_t i, int64_t rows) {
    tensors[i].tensor = at::full({rows}, 2.0).requires_grad_(true);
    optimizer->param_groups()[0].params()[i] = tensors[i].tensor;
  }
  void step() {
    optimizer->zero_grad();
    (tensors[0].tensor.sum() + tensors[1].tensor.sum()).backward();
    optimizer->step();
  }
  std::vector<NamedTensor> tensors;
  std::unique_ptr<torch::optim::SGD> optimizer;
};

TEST(TensorList, WhatNobodyElseHoldsAnyMoreIsNamedOnceInAnUpdateOrASwap) {
  for (const bool by_swap : {false, true}) {
    Points points;
    const ModelRef model(points.tensors);
    ExponentialMovingAverage slow(model, ema(0.25)), fast(model, ema(0.5));
    const auto lines = log_of([&] {
      AveragedModel* both[] = {&slow, &fast};
      for (int i = 0; i < 3; ++i) {
        points.step();
        update_together(both, model);
      }
      points.replace(0, 5);
      points.step();
      if (by_swap) {
        (void)slow.swap(model);
        (void)fast.swap(model);
        (void)slow.swap(model);
      }
      for (int i = 0; i < 6; ++i) update_together(both, model);
    });
    ASSERT_EQ(lines.size(), 2U) << ::testing::PrintToString(lines);
    for (const std::string& line : lines) {
      EXPECT_THAT(line, AllOf(HasSubstr("means of the list"), HasSubstr("held by nobody else")));
    }
  }
}

TEST(TensorList, WhatGetsNoGradientAnyMoreIsNamedOnceThoughTheProgramHoldsIt) {
  Points points;
  const std::vector<NamedTensor> first = points.tensors;
  const ModelRef model(points.tensors);
  ExponentialMovingAverage average(model, ema(0.5));
  const auto lines = log_of([&] {
    for (int i = 0; i < 300; ++i) {
      if (i == 40) points.replace(1, 3);
      points.step();
      average.update_parameters(model);
    }
  });
  ASSERT_EQ(lines.size(), 1U) << ::testing::PrintToString(lines);
  EXPECT_THAT(lines[0], AllOf(HasSubstr("scales of the list"), HasSubstr("no new gradient in")));
}

TEST(TensorList, WhatIsTrainedFrozenOrWrittenByOtherMeansIsNotNamed) {
  Points points;
  at::Tensor flat = at::zeros({4});
  points.tensors.push_back({"late", at::ones({2}).requires_grad_(true)});
  points.tensors.push_back({"frozen", at::ones({2})});
  points.tensors.push_back({"view", flat.slice(0, 0, 2)});
  points.tensors.push_back({"leaf", flat.slice(0, 2).detach().requires_grad_(true)});
  ModelRef model(points.tensors);
  at::Tensor late = points.tensors[2].tensor;
  points.tensors.resize(2);
  ExponentialMovingAverage average(model, ema(0.5));
  const auto lines = log_of([&] {
    for (int i = 0; i < 300; ++i) {
      points.step();
      if (i % 5 == 0) late.sum().backward();
      average.update_parameters(model);
      if (i % 100 == 0) (void)average.swap(model);
    }
  });
  EXPECT_THAT(lines, ::testing::IsEmpty());
}

TEST(TensorList, AnAverageOfGrownTensorsGoesOnFromItsRows) {
  for (const char* precision : {"default", "compensated", "float64"}) {
    const at::Tensor small = at::full({2}, 4.0);
    const ModelRef before({{"means", small}});
    const auto options = ema(0.5).precision(parse_precision(precision));
    ExponentialMovingAverage old(before, options);
    old.update_parameters(before);
    small.copy_(at::tensor({6.0, 8.0}));
    old.update_parameters(before);  // 5, 6

    const at::Tensor rows = at::tensor({1, 0, 1}, at::kLong);
    const at::Tensor large = small.index_select(0, rows);
    const ModelRef after({{"means", large}});
    ExponentialMovingAverage grown(after, options);
    std::vector<NamedTensor> values;
    for (const auto& item : old.named_averages()) {
      values.push_back({item.key(), item.value().index_select(0, rows)});
    }
    const LoadReport report = grown.load_state(values, old.steps());
    EXPECT_TRUE(report.clean()) << report.text();
    EXPECT_EQ(grown.steps(), 2);
    grown.update_parameters(after);
    EXPECT_THAT(values_of(grown, "means"), ElementsAre(7, 5.5, 7)) << precision;
  }
}

}  // namespace
}  // namespace polyak::test
