// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cmath>

#include "polyak/config/load.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/optim_wrapper.h"
#include "polyak/trainer/param_scheduler.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class Optimizing : public ::testing::TestWithParam<const char*> {
 protected:
  Optimizing() { register_trainer(catalog_); }
  std::shared_ptr<Optimizer> make(const std::string& text, std::vector<at::Tensor> parameters) {
    return catalog_.of<Optimizer>().build(parse_config(text), {std::move(parameters)});
  }
  static std::vector<at::Tensor> parameters() {
    return {at::linspace(-1, 1, 6).view({2, 3}).requires_grad_(),
            at::linspace(0, 1, 3).requires_grad_(), at::zeros({2}).requires_grad_()};
  }
  /// The last parameter takes no part: it has no gradient and no state.
  static void step(Optimizer& optimizer) {
    const auto& p = optimizer.parameters();
    (p[0].pow(2).sum() + (p[1] - 3).pow(2).sum()).backward();
    optimizer.step();
    optimizer.zero_grad();
  }
  Catalog catalog_;
};

TEST_P(Optimizing, StateGoesOutAndInBitForBit) {
  const auto first = make(GetParam(), parameters());
  for (int i = 0; i < 3; ++i) step(*first);
  first->set_lr(0.05);
  const Value state = first->state_dict();
  EXPECT_EQ(state.at("state").entries().size(), 2U);

  std::vector<at::Tensor> copies;
  for (const at::Tensor& p : first->parameters()) {
    copies.push_back(p.detach().clone().requires_grad_());
  }
  const auto second = make(GetParam(), copies);
  second->load_state_dict(state);
  EXPECT_EQ(second->lr(), 0.05);
  EXPECT_EQ(second->initial_lr(), first->initial_lr());
  for (int i = 0; i < 3; ++i) {
    step(*first);
    step(*second);
  }
  for (size_t i = 0; i < copies.size(); ++i) {
    EXPECT_TRUE(at::equal(first->parameters()[i], second->parameters()[i]));
  }
}

TEST_P(Optimizing, RefusesTheStateOfAnotherModel) {
  const auto first = make(GetParam(), parameters());
  step(*first);
  const Value state = first->state_dict();
  const auto fewer = make(GetParam(), {at::zeros({1}).requires_grad_()});
  EXPECT_THAT([&] { fewer->load_state_dict(state); },
              ThrowsMessage<CheckpointError>(HasSubstr("has 3 parameters, the model 1")));
  auto other = parameters();
  other[0] = at::zeros({7}).requires_grad_();
  const auto reshaped = make(GetParam(), other);
  EXPECT_THAT([&] { reshaped->load_state_dict(state); },
              ThrowsMessage<CheckpointError>(HasSubstr("parameter 0")));
}

INSTANTIATE_TEST_SUITE_P(
    Types, Optimizing,
    ::testing::Values("{type: SGD, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01}",
                      "{type: Adam, lr: 0.1, amsgrad: true}", "{type: AdamW, lr: 0.1}",
                      "{type: LARS, lr: 0.1, momentum: 0.9, weight_decay: 0.01, eta: 0.1}"));

/// One parameter under LARS, in plain doubles: the rule of You et al. with the rate inside of the
/// momentum, as mmpretrain has it.
struct PlainLars {
  double lr, momentum, weight_decay, dampening, eta, eps;
  bool nesterov, exclude;
  std::vector<double> w, sum = {};

  void step(const std::vector<double>& gradient) {
    double ww = 0, gg = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      ww += w[i] * w[i];
      gg += gradient[i] * gradient[i];
    }
    double rate = lr;
    if (!exclude && ww > 0 && gg > 0) {
      rate *= eta * std::sqrt(ww) / (std::sqrt(gg) + weight_decay * std::sqrt(ww) + eps);
    }
    const bool first = sum.empty();
    sum.resize(w.size());
    for (size_t i = 0; i < w.size(); ++i) {
      const double change = rate * (gradient[i] + weight_decay * w[i]);
      sum[i] = first ? change : momentum * sum[i] + (1 - dampening) * change;
      w[i] -= momentum == 0 ? change : nesterov ? change + momentum * sum[i] : sum[i];
    }
  }
};

TEST_F(Optimizing, LarsFollowsItsRule) {
  struct Form {
    const char* keys;
    double momentum, weight_decay, dampening;
    bool nesterov;
  };
  for (const Form& form :
       {Form{"", 0, 0, 0, false}, Form{"momentum: 0.9, weight_decay: 0.02", 0.9, 0.02, 0, false},
        Form{"momentum: 0.8, dampening: 0.3, weight_decay: 0.1", 0.8, 0.1, 0.3, false},
        Form{"momentum: 0.9, weight_decay: 0.01, nesterov: true", 0.9, 0.01, 0, true}}) {
    // A weight, a bias that is left out by its name, and a weight that starts at 0.
    const std::vector<std::string> names = {"fc.weight", "fc.bias", "zero.weight"};
    std::vector<PlainLars> plain;
    std::vector<NamedTensor> parameters;
    for (size_t k = 0; k < names.size(); ++k) {
      const bool bias = k == 1;
      std::vector<double> start;
      for (size_t i = 0; i < 4; ++i) start.push_back(k == 2 ? 0 : std::sin(double(3 * i + k)));
      plain.push_back({0.5, form.momentum, bias ? 0 : form.weight_decay, form.dampening, 0.05, 1e-8,
                       form.nesterov, bias, start});
      parameters.push_back({names[k], at::tensor(start, at::kDouble).requires_grad_()});
    }
    OptimWrapper wrapper(parse_config(fmt::format(
                             "{{optimizer: {{type: LARS, lr: 0.5, eta: 0.05{}{}}}, paramwise_cfg: "
                             "{{custom_keys: {{bias: {{decay_mult: 0, lars_exclude: true}}}}}}}}",
                             *form.keys ? ", " : "", form.keys)),
                         catalog_, parameters);
    wrapper.start(0, 6);
    for (int step = 0; step < 6; ++step) {
      at::Tensor loss = at::zeros({}, at::kDouble);
      for (size_t k = 0; k < names.size(); ++k) {
        std::vector<double> gradient;
        for (size_t i = 0; i < 4; ++i) gradient.push_back(std::cos(double(step + 2 * i + 5 * k)));
        loss = loss + (parameters[k].tensor * at::tensor(gradient, at::kDouble)).sum();
        plain[k].step(gradient);
      }
      wrapper.update(loss);
      for (size_t k = 0; k < names.size(); ++k) {
        for (size_t i = 0; i < 4; ++i) {
          EXPECT_NEAR(parameters[k].tensor[i].item<double>(), plain[k].w[i], 1e-13)
              << form.keys << " step " << step << ' ' << names[k];
        }
      }
    }
  }
}

TEST_F(Optimizing, TheLongestKeyInANameRules) {
  auto weights_after_a_step = [&](const char* optimizer, const char* keys) {
    std::vector<NamedTensor> parameters;
    for (const char* name : {"a.weight", "bn1.weight", "b.weight", "bn1.bias"}) {
      parameters.push_back({name, at::ones({1}).requires_grad_()});
    }
    OptimWrapper wrapper(
        parse_config(
            fmt::format("{{optimizer: {}, paramwise_cfg: {{custom_keys: {}}}}}", optimizer, keys)),
        catalog_, parameters);
    wrapper.start(0, 1);
    at::Tensor loss = at::zeros({});
    for (const NamedTensor& item : parameters) loss = loss + item.tensor.sum() * 0;
    wrapper.update(loss);
    std::vector<float> values;
    for (const NamedTensor& item : parameters) values.push_back(1 - item.tensor.item<float>());
    const Value state = wrapper.optimizer().state_dict();
    EXPECT_EQ(state.at("param_groups").items().size(), 3U);
    return values;
  };
  using ::testing::FloatNear;
  for (const char* optimizer :
       {"{type: SGD, lr: 1, weight_decay: 0.1}", "{type: AdamW, lr: 1, weight_decay: 0.1}",
        "{type: LARS, lr: 1, weight_decay: 0.1}"}) {
    EXPECT_THAT(weights_after_a_step(optimizer, "{bn: {decay_mult: 0}, bn1.bias: {decay_mult: 2}}"),
                ::testing::ElementsAre(FloatNear(0.1F, 1e-6F), 0, FloatNear(0.1F, 1e-6F),
                                       FloatNear(0.2F, 1e-6F)))
        << optimizer;
  }
  EXPECT_THAT([&] { weights_after_a_step("{type: SGD, lr: 1}", "{bn: {decay_mul: 0}}"); },
              ThrowsMessage<ConfigError>(HasSubstr("did you mean 'decay_mult'?")));
}

TEST_F(Optimizing, GroupsGoOnFromTheirState) {
  auto make_wrapper = [&](std::vector<at::Tensor> tensors, const char* keys) {
    const char* names[] = {"bn.weight", "fc.weight", "fc.bias"};
    std::vector<NamedTensor> parameters;
    for (size_t i = 0; i < tensors.size(); ++i) parameters.push_back({names[i], tensors[i]});
    return OptimWrapper(
        parse_config(
            fmt::format("{{optimizer: {{type: LARS, lr: 0.1, momentum: 0.9, weight_decay: 0.1}}, "
                        "paramwise_cfg: {{custom_keys: {}}}}}",
                        keys)),
        catalog_, parameters);
  };
  const char* keys = "{bn: {lars_exclude: true}, bias: {decay_mult: 0, lars_exclude: true}}";
  OptimWrapper first = make_wrapper(parameters(), keys);
  for (int i = 0; i < 3; ++i) step(first.optimizer());
  const Value state = first.optimizer().state_dict();
  std::vector<at::Tensor> copies;
  for (const at::Tensor& p : first.optimizer().parameters()) {
    copies.push_back(p.detach().clone().requires_grad_());
  }
  OptimWrapper second = make_wrapper(copies, keys);
  second.optimizer().load_state_dict(state);
  for (OptimWrapper* wrapper : {&first, &second}) step(wrapper->optimizer());
  for (size_t i = 0; i < copies.size(); ++i) {
    EXPECT_TRUE(at::equal(first.optimizer().parameters()[i], second.optimizer().parameters()[i]));
  }
  OptimWrapper other = make_wrapper(parameters(), "{bn: {lars_exclude: true}}");
  EXPECT_THAT([&] { other.optimizer().load_state_dict(state); },
              ThrowsMessage<CheckpointError>(
                  HasSubstr("into 3 groups, but this run splits them differently, into 2")));
}

TEST_F(Optimizing, AveragesGradientsOverAccumulatedIterations) {
  const at::Tensor p = at::zeros({1}).requires_grad_();
  OptimWrapper wrapper(parse_config("{optimizer: {type: SGD, lr: 1}, accumulative_counts: 2}"),
                       catalog_, {{"p", p}});
  wrapper.start(0, 5);
  std::vector<bool> stepped;
  for (double slope : {1.0, 3.0, 2.0, 2.0, 5.0})
    stepped.push_back(wrapper.update((p * slope).sum()));
  EXPECT_EQ(stepped, (std::vector<bool>{false, true, false, true, true}));
  // Means of (1, 3) and (2, 2); the one iteration that is left counts in full.
  EXPECT_FLOAT_EQ(p.item<float>(), -(2.0F + 2.0F + 5.0F));
}

TEST_F(Optimizing, ClipsGradients) {
  auto after = [&](const char* clip) {
    const at::Tensor p = at::zeros({2}).requires_grad_();
    OptimWrapper wrapper(
        parse_config(fmt::format("{{optimizer: {{type: SGD, lr: 1}}, clip_grad: {}}}", clip)),
        catalog_, {{"p", p}});
    wrapper.start(0, 1);
    wrapper.update((p * at::tensor(std::vector<float>{3, 4})).sum());
    return std::make_pair(-p.detach(), wrapper.grad_norm());
  };
  const auto [by_norm, norm] = after("{max_norm: 1}");
  EXPECT_NEAR(by_norm[0].item<double>(), 0.6, 1e-5);
  EXPECT_NEAR(*norm, 5.0, 1e-5);
  EXPECT_FLOAT_EQ(after("{max_value: 3.5}").first[1].item<float>(), 3.5F);
  EXPECT_THAT([&] { after("{max_value: 1, max_norm: 1}"); },
              ThrowsMessage<ConfigError>(HasSubstr("one of max_norm and max_value")));
}

class Schedules : public ::testing::Test {
 protected:
  Schedules() { register_trainer(catalog_); }

  void start(const std::vector<std::string>& texts) {
    schedulers_.clear();
    optimizer_ =
        catalog_.of<Optimizer>().build(parse_config("{type: SGD, lr: 0.1}"), {{at::zeros({1})}});
    for (const std::string& text : texts) {
      schedulers_.push_back(catalog_.of<ParamScheduler>().build(parse_config(text), context()));
    }
  }
  ParamScheduler::Context context() { return {optimizer_.get(), 5, 20, 100}; }
  void step() {
    for (const auto& scheduler : schedulers_) scheduler->step();
  }
  /// The rate in each of `count` units.
  std::vector<double> rates(int count) {
    std::vector<double> values;
    for (int i = 0; i < count; ++i, step()) values.push_back(optimizer_->lr());
    return values;
  }

  Catalog catalog_;
  std::shared_ptr<Optimizer> optimizer_;
  std::vector<std::shared_ptr<ParamScheduler>> schedulers_;
};

constexpr double kPi = 3.14159265358979323846;

TEST_F(Schedules, StepAndMultiStepMultiply) {
  start({"{type: StepLR, step_size: 3, gamma: 0.5}"});
  const auto step_rates = rates(20);
  for (int i = 0; i < 20; ++i) EXPECT_NEAR(step_rates[i], 0.1 * std::pow(0.5, i / 3), 1e-12);
  start({"{type: MultiStepLR, milestones: [4, 9, 9], gamma: 0.5}"});
  const auto multi = rates(20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_NEAR(multi[i], 0.1 * std::pow(0.5, i < 4 ? 0 : i < 9 ? 1 : 3), 1e-12);
  }
}

TEST_F(Schedules, CosineFollowsItsClosedForm) {
  start({"{type: CosineAnnealingLR, T_max: 8, eta_min: 0.01}"});
  const auto values = rates(20);  // through the minimum and up again
  for (int i = 0; i < 20; ++i) {
    EXPECT_NEAR(values[i], 0.01 + 0.09 * (1 + std::cos(kPi * i / 8)) / 2, 1e-12) << i;
  }
  start({"{type: CosineAnnealingLR}"});  // T_max is the length of the run
  EXPECT_NEAR(rates(11)[10], 0.05, 1e-12);
}

TEST_F(Schedules, LinearReachesItsEndFactor) {
  start({"{type: LinearLR, start_factor: 0.1, end_factor: 0.7, begin: 2, end: 9}"});
  const auto values = rates(20);
  for (int i = 0; i < 20; ++i) {
    const double factor = i < 2 ? 1.0 : i < 9 ? 0.1 + 0.6 * (i - 2) / 6 : 0.7;
    EXPECT_NEAR(values[i], 0.1 * factor, 1e-12) << i;
  }
}

TEST_F(Schedules, WarmUpThenCosine) {
  start({"{type: LinearLR, start_factor: 0.001, end: 5}",
         "{type: CosineAnnealingLR, begin: 5, T_max: 15}"});
  const auto values = rates(20);
  for (int i = 0; i < 20; ++i) {
    const double expected =
        i < 5 ? 0.1 * (0.001 + 0.999 * i / 4) : 0.1 * (1 + std::cos(kPi * (i - 5) / 15)) / 2;
    EXPECT_NEAR(values[i], expected, 1e-12) << i;
  }
}

TEST_F(Schedules, EpochsConvertToIterations) {
  start(
      {"{type: StepLR, step_size: 2, gamma: 0.5, begin: 1, end: 8, convert_to_iter_based: true}"});
  EXPECT_FALSE(schedulers_[0]->by_epoch());
  const auto values = rates(100);  // 5 iterations in an epoch
  for (int i = 0; i < 100; ++i) {
    const int halvings = i < 5 ? 0 : (std::min(i, 39) - 5) / 10;
    EXPECT_NEAR(values[i], 0.1 * std::pow(0.5, halvings), 1e-12) << i;
  }
}

TEST_F(Schedules, WarmUpThenCosineByIteration) {
  // In iterations, 100 of them in 20 epochs of 5; and the same in epochs that are converted.
  for (const std::vector<std::string>& texts :
       {std::vector<std::string>{
            "{type: LinearLR, by_epoch: false, start_factor: 0.001, begin: 0, end: 25}",
            "{type: CosineAnnealingLR, by_epoch: false, begin: 25, end: 100, eta_min: 0.002}"},
        std::vector<std::string>{
            "{type: LinearLR, start_factor: 0.001, end: 5, convert_to_iter_based: true}",
            "{type: CosineAnnealingLR, begin: 5, T_max: 15, eta_min: 0.002, "
            "convert_to_iter_based: true}"}}) {
    start(texts);
    for (const auto& scheduler : schedulers_) EXPECT_FALSE(scheduler->by_epoch());
    const auto values = rates(100);
    for (int i = 0; i < 100; ++i) {
      const double expected = i < 25 ? 0.1 * (0.001 + 0.999 * i / 24)
                                     : 0.002 + 0.098 * (1 + std::cos(kPi * (i - 25) / 75)) / 2;
      EXPECT_NEAR(values[i], expected, 1e-12) << i;
    }
  }
}

TEST_F(Schedules, GoOnFromTheirState) {
  const std::vector<std::string> texts = {"{type: LinearLR, start_factor: 0.1, end: 5}",
                                          "{type: CosineAnnealingLR, begin: 5, eta_min: 0.001}"};
  start(texts);
  const auto whole = rates(20);
  start(texts);
  rates(8);
  const Value optimizer_state = optimizer_->state_dict();
  std::vector<Value> states;
  for (const auto& scheduler : schedulers_) states.push_back(scheduler->state_dict());
  start(texts);
  optimizer_->load_state_dict(optimizer_state);
  for (size_t i = 0; i < states.size(); ++i) schedulers_[i]->load_state_dict(states[i]);
  const auto rest = rates(12);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(rest[i], whole[8 + i]) << i;
}

TEST_F(Schedules, RefuseContradictions) {
  EXPECT_THAT([&] { start({"{type: StepLR, step_size: 1, begin: 5, end: 5}"}); },
              ThrowsMessage<ConfigError>(HasSubstr("above begin")));
  EXPECT_THAT(
      [&] {
        start({"{type: StepLR, step_size: 1, by_epoch: false, convert_to_iter_based: true}"});
      },
      ThrowsMessage<ConfigError>(HasSubstr("convert_to_iter_based")));
  EXPECT_THAT([&] { start({"{type: LinearLR, start_factor: 0}"}); },
              ThrowsMessage<ConfigError>(HasSubstr("start_factor")));
}

}  // namespace
}  // namespace polyak
