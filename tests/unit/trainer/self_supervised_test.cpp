// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/utils.h>

#include "polyak/averaging/model.h"
#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/mean_teacher.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/optimizer.h"
#include "polyak/trainer/register_trainer.h"
#include "polyak/trainer/self_supervised.h"
#include "support/golden.h"

namespace polyak::test {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

struct NoOptions : Options {
  void visit(OptionVisitor&) override {}
};

/// The toy backbone of the golden traces; it gives maps, which the neck pools.
class ToyBackbone : public torch::nn::Cloneable<ToyBackbone>, public Backbone {
 public:
  ToyBackbone() { ToyBackbone::reset(); }
  void reset() override {
    conv_ = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 4, 3)));
    bn_ = register_module("bn", torch::nn::BatchNorm2d(4));
  }
  at::Tensor forward(const at::Tensor& images) override { return bn_(conv_(images)).relu(); }
  int64_t features() const override { return 4; }

 private:
  torch::nn::Conv2d conv_{nullptr};
  torch::nn::BatchNorm2d bn_{nullptr};
};

const char* const kByol =
    "{type: BYOL, base_momentum: 0.1, backbone: {type: ToyBackbone},"
    " neck: {type: NonLinearNeck, in_channels: 4, hid_channels: 8, out_channels: 3,"
    "        with_bias: true, with_last_bn: false},"
    " head: {type: LatentPredictHead, predictor: {type: NonLinearNeck, hid_channels: 8,"
    "        out_channels: 3, with_bias: true, with_last_bn: false}}}";
const char* const kMoCoV3 =
    "{type: MoCoV3, base_momentum: 0.1, backbone: {type: ToyBackbone},"
    " neck: {type: NonLinearNeck, hid_channels: 8, out_channels: 3, with_last_bn_affine: false},"
    " head: {type: MoCoV3Head, temperature: 0.2, predictor: {type: NonLinearNeck, hid_channels: 8,"
    "        out_channels: 3, with_last_bn: false}}}";

class SelfSupervised : public ::testing::Test {
 protected:
  SelfSupervised() {
    register_trainer(catalog_);
    catalog_.of<Backbone>().add<NoOptions>(
        "ToyBackbone", "For tests.",
        [](const NoOptions&, const Backbone::Context&) { return std::make_shared<ToyBackbone>(); });
    progress_.max_iters = progress_.max_optimizer_steps = 6;
    progress_.optimizer_steps = 0;
  }

  template <class A = TargetLearner>
  std::shared_ptr<A> make(const std::string& text) {
    return std::dynamic_pointer_cast<A>(catalog_.of<Algorithm>().build(
        parse_config(text), {&catalog_, {1, 6, 6}, 3, at::kCPU, &progress_}));
  }
  std::shared_ptr<Optimizer> make_optimizer(torch::nn::Module& module) {
    std::vector<at::Tensor> parameters;
    for (const NamedTensor& item : ModelRef(module).tensors()) {
      if (!item.buffer) parameters.push_back(item.tensor);
    }
    return catalog_.of<Optimizer>().build(parse_config("{type: SGD, lr: 0.05, momentum: 0.9}"),
                                          {std::move(parameters)});
  }

  Catalog catalog_;
  Progress progress_;
};

at::Tensor loss_of(Algorithm& model, const at::Tensor& view_1, const at::Tensor& view_2) {
  return model.loss({{view_1, view_2}, at::Tensor()}).at("loss");
}

at::Tensor view(const nlohmann::json& trace, int i) {
  return at::tensor(trace["views"][i].get<std::vector<double>>(), at::kDouble)
      .view(trace["view_shape"].get<std::vector<int64_t>>());
}

std::vector<double> flat_state(torch::nn::Module& module, const std::string& prefix,
                               const std::vector<std::string>& keys) {
  std::map<std::string, at::Tensor> tensors;
  for (const NamedTensor& item : ModelRef(module).tensors()) tensors[item.name] = item.tensor;
  return flatten_by([&](const std::string& key) { return tensors.at(prefix + key); }, keys);
}

void load_flat(torch::nn::Module& module, const std::vector<std::string>& keys,
               const std::vector<double>& flat) {
  const torch::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> tensors;
  for (const NamedTensor& item : ModelRef(module).tensors()) tensors[item.name] = item.tensor;
  auto from = flat.begin();
  for (const std::string& key : keys) {
    at::Tensor& tensor = tensors.at(key);
    const std::vector<double> values(from, from + tensor.numel());
    from += tensor.numel();
    tensor.copy_(at::tensor(values, at::kDouble).view(tensor.sizes()));
  }
  ASSERT_EQ(from, flat.end());
}

TEST_F(SelfSupervised, FollowsTheReferencesTraces) {
  const nlohmann::json traces = golden("selfsup.json");
  ASSERT_EQ(traces["cases"].size(), 2u);
  for (const nlohmann::json& trace : traces["cases"]) {
    const bool is_byol = trace["name"] == "BYOL";
    SCOPED_TRACE(trace["name"].get<std::string>());
    progress_.optimizer_steps = 0;
    progress_.max_optimizer_steps = trace["max_iters"];
    const auto model = make(is_byol ? kByol : kMoCoV3);
    const auto module = as_module<Algorithm>(model);
    module->to(at::kDouble);
    const auto online_keys = trace["online_keys"].get<std::vector<std::string>>();
    auto target_keys = trace["target_keys"].get<std::vector<std::string>>();
    ASSERT_EQ(target_keys.front(), "steps");  // beside the traced values
    target_keys.erase(target_keys.begin());
    load_flat(*module, online_keys, trace["initial_online"].get<std::vector<double>>());
    const auto optimizer = make_optimizer(*module);

    ASSERT_GE(trace["iterations"].size(), 6u);
    for (const nlohmann::json& expected : trace["iterations"]) {
      SCOPED_TRACE(expected["iter"].dump());
      const at::Tensor loss = loss_of(*model, view(trace, 0), view(trace, 1));
      EXPECT_NEAR(loss.item<double>(), expected["loss"].get<double>(), 1e-6);
      CosineEMA& target = model->target().average();
      EXPECT_EQ(target.steps(), expected["steps"].get<int64_t>());
      if (expected["action"] == "average") {
        EXPECT_NEAR(target.weight(expected["iter"]), expected["momentum"].get<double>(), 1e-6);
      }
      const std::string prefix = is_byol ? "target_net." : "momentum_encoder.";
      EXPECT_LE(largest_difference(flat_state(*module, prefix, target_keys),
                                   expected["target_after_forward"].get<std::vector<double>>()),
                1e-6);
      loss.backward();
      optimizer->step();
      optimizer->zero_grad();
      ++progress_.optimizer_steps;
      EXPECT_LE(largest_difference(flat_state(*module, "", online_keys),
                                   expected["online_after_step"].get<std::vector<double>>()),
                1e-6);
    }
  }
}

TEST_F(SelfSupervised, GradientAccumulationUpdatesTheTargetOncePerOptimizerStep) {
  const auto model = make(kByol);
  std::vector<int64_t> counted;
  for (int64_t iter = 0; iter < 6; ++iter) {
    progress_.optimizer_steps = iter / 2;
    loss_of(*model, at::rand({5, 1, 6, 6}), at::rand({5, 1, 6, 6}));
    counted.push_back(model->target().average().steps());
  }
  EXPECT_EQ(counted, (std::vector<int64_t>{1, 1, 2, 2, 3, 3}));
}

TEST_F(SelfSupervised, TheLengthOfTheRunIsTheTargetsAndAKeyOverridesIt) {
  EXPECT_NEAR(make(kByol)->target().average().weight(3), 0.05, 1e-12);
  const std::string text = kByol;
  EXPECT_NEAR(
      make(text.substr(0, text.size() - 1) + ", max_iters: 12}")->target().average().weight(6),
      0.05, 1e-12);
  EXPECT_THAT(
      [&] {
        catalog_.of<Algorithm>().build(parse_config(kByol), {&catalog_, {1, 6, 6}, 3});
      },
      ThrowsMessage<ConfigError>(HasSubstr("max_iters")));
}

TEST_F(SelfSupervised, TheTargetHasNoGradientsAndFollowsModeAndDtype) {
  const auto model = make(kMoCoV3);
  const auto module = as_module<Algorithm>(model);
  loss_of(*model, at::rand({5, 1, 6, 6}), at::rand({5, 1, 6, 6})).backward();
  for (const NamedTensor& item : ModelRef(module).tensors()) {
    if (item.buffer) continue;
    const bool target = item.name.find("momentum_encoder.") == 0;
    EXPECT_EQ(item.tensor.requires_grad(), !target) << item.name;
    EXPECT_EQ(item.tensor.grad().defined(), !target) << item.name;
  }
  module->eval();
  EXPECT_FALSE(model->target().net<Encoder>()->is_training());
  module->train();
  EXPECT_TRUE(model->target().net<Encoder>()->is_training());
  module->to(at::kDouble);
  EXPECT_EQ(model->target().net<Encoder>()->parameters()[0].scalar_type(), at::kDouble);
}

TEST_F(SelfSupervised, ATargetMayStandStillOrBeTheOnlineNetwork) {
  const at::Tensor images = at::rand({5, 1, 6, 6});
  for (const char* mode : {"never", "copy"}) {
    SCOPED_TRACE(mode);
    progress_.optimizer_steps = 0;
    const std::string text = kByol;
    const auto model = make(text.substr(0, text.size() - 1) + ", target_update: " + mode + "}");
    const auto module = as_module<Algorithm>(model);
    const auto optimizer = make_optimizer(*module);
    const at::Tensor online = module->named_parameters()["backbone.conv.weight"];
    const at::Tensor first = online.detach().clone();
    at::Tensor last;
    for (int i = 0; i < 3; ++i) {
      last = online.detach().clone();
      loss_of(*model, images, images.flip({3})).backward();
      optimizer->step();
      optimizer->zero_grad();
      ++progress_.optimizer_steps;
    }
    ASSERT_FALSE(at::equal(first, last));
    const at::Tensor target = module->named_parameters()["target_net.module.0.conv.weight"];
    EXPECT_TRUE(at::equal(target, std::string(mode) == "never" ? first : last));
  }
}

TEST_F(SelfSupervised, ATargetOfAnotherRunStartsAsACopy) {
  const auto model = make(kByol);
  CosineEMA& target = model->target().average();
  std::vector<NamedTensor> foreign = target.state();
  for (NamedTensor& item : foreign) item.tensor = at::ones_like(item.tensor);
  target.load_state(foreign, 500);
  const at::Tensor images = at::rand({5, 1, 6, 6});
  EXPECT_THAT([&] { loss_of(*model, images, images); },
              ThrowsMessage<Error>(HasSubstr("target_net: counts 500 updates, but the run made 0")))
      << "never by itself";
  model->after_load(/*resuming=*/false);
  loss_of(*model, images, images);
  EXPECT_EQ(target.steps(), 1);
  const auto tensors = as_module<Algorithm>(model)->named_parameters();
  EXPECT_TRUE(
      at::equal(tensors["target_net.module.0.conv.weight"], tensors["backbone.conv.weight"]));
}

TEST_F(SelfSupervised, ATargetThatGoesOnIsNeverResetByItsCount) {
  const auto model = make(kByol);
  CosineEMA& target = model->target().average();
  const at::Tensor weight =
      as_module<Algorithm>(model)->named_parameters()["target_net.module.0.conv.weight"];
  const at::Tensor before = at::ones_like(weight);
  // Steps in the file, iterations and optimizer steps of the run, and the count that goes on; -1:
  // refused.
  struct Case {
    int64_t steps, iter, optimizer_steps, expected;
  };
  progress_.max_iters = 20;
  progress_.accumulative_counts = 2;
  for (const Case& c :
       {Case{4, 8, 4, 4}, Case{8, 8, 4, 4}, Case{9, 9, 4, 5}, Case{5, 9, 4, 5}, Case{4, 9, 4, 4},
        Case{7, 8, 4, -1}, Case{16, 8, 4, -1}, Case{1, 8, 4, -1}, Case{0, 8, 4, -1}}) {
    SCOPED_TRACE(fmt::format("{} at {}", c.steps, c.iter));
    std::vector<NamedTensor> state = target.state();
    for (NamedTensor& item : state) item.tensor = at::ones_like(item.tensor);
    target.load_state(state, c.steps);
    progress_.iter = c.iter;
    progress_.optimizer_steps = c.optimizer_steps;
    if (c.expected < 0) {
      EXPECT_THAT([&] { model->after_load(/*resuming=*/true); },
                  ThrowsMessage<CheckpointError>(HasSubstr(
                      fmt::format("target_net.steps is {}, but the run made 4 optimizer steps in 8 "
                                  "iterations",
                                  c.steps))));
    } else {
      model->after_load(/*resuming=*/true);
      EXPECT_EQ(target.steps(), c.expected);
    }
    EXPECT_TRUE(at::equal(weight, before)) << "the weights stay";
  }
}

TEST_F(SelfSupervised, AFrozenTargetStaysFrozenWhenItGoesOn) {
  std::string text = kByol;
  text.insert(text.find("backbone"), "target_update: never, ");
  const auto model = make(text);
  CosineEMA& target = model->target().average();
  for (const int64_t steps : {1, 8}) {
    std::vector<NamedTensor> state = target.state();
    for (NamedTensor& item : state) item.tensor = at::ones_like(item.tensor);
    target.load_state(state, steps);
    progress_.iter = progress_.optimizer_steps = 4;
    model->after_load(/*resuming=*/true);
    const at::Tensor images = at::rand({5, 1, 6, 6});
    loss_of(*model, images, images);
    EXPECT_TRUE(target.named_averages()["0.conv.weight"].eq(1).all().item<bool>()) << steps;
  }
}

TEST_F(SelfSupervised, ACopyOfTheAlgorithmHasATargetOfItsOwn) {
  const auto model = make(kByol);
  const auto module = as_module<Algorithm>(model);
  const auto optimizer = make_optimizer(*module);
  const at::Tensor images = at::rand({5, 1, 6, 6});
  auto step = [&](TargetLearner& learner, Optimizer& its) {
    const at::Tensor loss = loss_of(learner, images, images.flip({3}));
    loss.backward();
    its.step();
    its.zero_grad();
    return loss.item<double>();
  };
  step(*model, *optimizer);
  progress_.optimizer_steps = 1;
  step(*model, *optimizer);

  const auto copied = module->clone();
  const auto copy = std::dynamic_pointer_cast<TargetLearner>(copied);
  ASSERT_TRUE(copy);
  EXPECT_EQ(copy->target().average().steps(), 2);
  const auto names = ModelRef(module).tensors(), others = ModelRef(copied).tensors();
  ASSERT_EQ(names.size(), others.size());
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(names[i].name, others[i].name);
    EXPECT_TRUE(at::equal(names[i].tensor, others[i].tensor)) << names[i].name;
    EXPECT_NE(names[i].tensor.data_ptr(), others[i].tensor.data_ptr()) << names[i].name;
  }
  // Both go on alike, each on its own: momentum starts anew in a new optimizer.
  progress_.optimizer_steps = 2;
  const auto fresh = make_optimizer(*module), its = make_optimizer(*copied);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(step(*model, *fresh), step(*copy, *its));
    ++progress_.optimizer_steps;
  }
  EXPECT_EQ(copy->target().average().steps(), 4);
}

TEST_F(SelfSupervised, SimSiamPullsNoGradientThroughTheOtherBranch) {
  std::string text = kByol;
  text.replace(0, text.find("backbone"), "{type: SimSiam, ");
  const std::string end = "with_last_bn: false}}}";
  text.replace(text.find(end), end.size(), "with_last_bn: false, with_last_bias: true}}}");
  const auto model = make<SimSiam>(text);
  const at::Tensor view_1 = at::rand({5, 1, 6, 6}), view_2 = at::rand({5, 1, 6, 6});
  const at::Tensor loss = loss_of(*model, view_1, view_2);
  EXPECT_GE(loss.item<double>(), -1.0);
  EXPECT_LE(loss.item<double>(), 1.0);
  loss.backward();
  const auto module = as_module<Algorithm>(model);
  for (const auto& item : module->named_parameters()) {
    EXPECT_TRUE(item.value().grad().defined()) << item.key();
  }
  EXPECT_EQ(model->predict(view_1).sizes()[1], 4);

  // Predictions that depend on nothing: what reaches the encoder then came through the targets.
  module->zero_grad();
  {
    const torch::NoGradGuard no_grad;
    module->named_parameters()["head.predictor.fc1.weight"].zero_();
  }
  loss_of(*model, view_1, view_2).backward();
  for (const auto& item : module->named_parameters()) {
    const at::Tensor gradient = item.value().grad();
    const double size = gradient.defined() ? gradient.abs().max().item<double>() : 0;
    if (item.key() == "head.predictor.fc1.bias") {
      EXPECT_GT(size, 0);
    } else if (item.key().rfind("head", 0) != 0) {
      EXPECT_EQ(size, 0) << item.key();
    }
  }
}

TEST_F(SelfSupervised, AMeanTeacherLearnsFromLabelsThatAreThereAndPredictsByItsAverage) {
  const auto model = make<MeanTeacher>(
      "{type: MeanTeacher, consistency_weight: 2, ramp_up: 0.5, base_momentum: 0.25,"
      " backbone: {type: MLP, hidden: [8]}, head: {type: LinearClsHead}}");
  const auto module = as_module<Algorithm>(model);
  const at::Tensor view_1 = at::rand({4, 1, 6, 6}), view_2 = at::rand({4, 1, 6, 6});
  const auto some = model->loss({{view_1, view_2}, at::tensor({0, -1, 2, -1}, at::kLong)});
  EXPECT_EQ(some.size(), 2u);
  EXPECT_TRUE(some.at("loss_labels").item<double>() > 0);
  const auto none = model->loss({{view_1, view_2}, at::full({4}, -1, at::kLong)});
  EXPECT_EQ(none.count("loss_labels"), 0u);

  // exp(-5) at the start of the ramp-up, 1 at its end.
  progress_.iter = 3;
  progress_.optimizer_steps = 0;
  const auto full = model->loss({{view_1, view_2}, at::full({4}, -1, at::kLong)});
  EXPECT_NEAR(none.at("loss_consistency").item<double>() / std::exp(-5.0),
              full.at("loss_consistency").item<double>(), 1e-6);

  const auto tensors = module->named_parameters();
  const at::Tensor& student = tensors["student.head.fc.bias"];
  const at::Tensor& teacher = tensors["teacher.module.head.fc.bias"];
  const at::Tensor before = student.detach().clone();
  {
    const torch::NoGradGuard no_grad;
    student.add_(1);
  }
  progress_.optimizer_steps = 1;
  model->loss({{view_1, view_2}, at::full({4}, -1, at::kLong)});
  const double weight = model->teacher().average().weight(1);
  EXPECT_TRUE(at::allclose(teacher, before + weight));
  const at::Tensor by_teacher = model->predict(view_1);
  {
    const torch::NoGradGuard no_grad;
    student.add_(1);
  }
  EXPECT_TRUE(at::equal(model->predict(view_1), by_teacher));
}

TEST_F(SelfSupervised, WidthsThatDoNotFitAreRefusedAtTheirPlace) {
  std::string text = kByol;
  text.replace(text.find("in_channels: 4"), 14, "in_channels: 5");
  EXPECT_THAT([&] { make(text); }, ThrowsMessage<ConfigError>(HasSubstr("in_channels is 5")));
  text = kByol;
  text.replace(text.rfind("out_channels: 3"), 15, "out_channels: 4");
  EXPECT_THAT([&] { make(text); }, ThrowsMessage<ConfigError>(HasSubstr("predicts 4 values")));
}

}  // namespace
}  // namespace polyak::test
