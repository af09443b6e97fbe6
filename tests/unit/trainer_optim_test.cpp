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
                      "{type: Adam, lr: 0.1, amsgrad: true}", "{type: AdamW, lr: 0.1}"));

TEST_F(Optimizing, AveragesGradientsOverAccumulatedIterations) {
  const at::Tensor p = at::zeros({1}).requires_grad_();
  OptimWrapper wrapper(parse_config("{optimizer: {type: SGD, lr: 1}, accumulative_counts: 2}"),
                       catalog_, {p});
  EXPECT_EQ(wrapper.steps_in(5), 3);
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
        catalog_, {p});
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
