// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>
#include <torch/utils.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "polyak/averaging/average_state.h"
#include "support/averages.h"

namespace polyak::test {

/// A model of one dtype, with a buffer of it and a counter.
struct NumbersNet : torch::nn::Module {
  explicit NumbersNet(at::ScalarType dtype) {
    register_parameter("weight", at::zeros({5, 7}, dtype));
    register_parameter("bias", at::zeros({33}, dtype));
    register_buffer("mean", at::zeros({4}, dtype));
    register_buffer("count", at::zeros({}, at::kLong));
  }
  /// The same change for the same number.
  void step(uint64_t number) {
    const torch::NoGradGuard no_grad;
    at::manual_seed(number);
    for (const NamedTensor& item : ModelRef(*this).tensors()) {
      const at::Tensor change = at::randn(item.tensor.sizes()) * 3;
      item.tensor.add_(change.to(item.tensor.scalar_type()));
    }
  }
};

/// How an average of a NumbersNet is kept.
struct StateCase {
  std::string rule;
  at::ScalarType dtype;
  std::string precision;
  bool update_buffers;

  std::shared_ptr<AveragedModel> build(NumbersNet& net) const {
    Node options = Node::mapping({{"precision", precision}, {"update_buffers", update_buffers}});
    if (rule == "CosineEMA") options.set("end_momentum", 0.01);
    if (rule != "StochasticWeightAverage") options.set("momentum", 0.3);
    return build_average(rule, options, net, /*max_iters=*/40);
  }
  std::string text() const {
    return fmt::format("{}, {}, {}, update_buffers {}", rule, at::toString(dtype), precision,
                       update_buffers);
  }
};

inline std::vector<StateCase> state_cases() {
  std::vector<StateCase> cases;
  for (const char* rule : {"ExponentialMovingAverage", "CosineEMA", "StochasticWeightAverage"}) {
    for (const at::ScalarType dtype :
         {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble, at::kComplexFloat}) {
      for (const char* precision : {"default", "compensated", "float64"}) {
        for (const bool update_buffers : {false, true}) {
          cases.push_back({rule, dtype, precision, update_buffers});
        }
      }
    }
  }
  return cases;
}

inline std::string bits_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.detach().contiguous();
  return std::string(at::toString(values.scalar_type())) +
         std::string(static_cast<const char*>(values.data_ptr()), values.nbytes());
}

inline void expect_same_bits(AveragedModel& a, AveragedModel& b) {
  EXPECT_EQ(a.steps(), b.steps());
  const auto averages = b.named_averages();
  ASSERT_EQ(a.named_averages().size(), averages.size());
  for (const auto& item : a.named_averages()) {
    EXPECT_EQ(bits_of(item.value()), bits_of(averages[item.key()])) << item.key();
  }
  const std::vector<NamedTensor> states = b.state(), residuals = b.compensation();
  size_t i = 0;
  for (const NamedTensor& item : a.state()) {
    EXPECT_EQ(bits_of(item.tensor), bits_of(states.at(i++).tensor)) << item.name;
  }
  ASSERT_EQ(a.compensation().size(), residuals.size());
  i = 0;
  for (const NamedTensor& item : a.compensation()) {
    EXPECT_EQ(bits_of(item.tensor), bits_of(residuals.at(i++).tensor)) << item.name;
  }
}

/// Averages for a while, takes the state through `pass` into a new average of a new model, and goes
/// on with both.
inline void expect_exact_continuation(
    const StateCase& kept, const std::function<AverageState(const AverageState&)>& pass) {
  SCOPED_TRACE(kept.text());
  NumbersNet net(kept.dtype);
  const auto average = kept.build(net);
  for (int step = 0; step < 6; ++step) {
    net.step(step);
    average->update_parameters(net);
  }
  const AverageState state = pass(average->state_dict());
  EXPECT_EQ(state.rule, kept.rule);

  NumbersNet other(kept.dtype);
  for (int step = 0; step < 6; ++step) other.step(step);
  const auto resumed = kept.build(other);
  const LoadReport report = resumed->load_state_dict(state);
  EXPECT_TRUE(report.clean()) << report.text();
  expect_same_bits(*average, *resumed);
  for (int step = 6; step < 12; ++step) {
    net.step(step);
    average->update_parameters(net);
    other.step(step);
    resumed->update_parameters(other);
  }
  expect_same_bits(*average, *resumed);
}

}  // namespace polyak::test
