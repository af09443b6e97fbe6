// SPDX-License-Identifier: Apache-2.0
// The traces of the unmodified reference (tests/golden), read at run time.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "support/averages.h"
#include "support/golden.h"

namespace polyak::test {
namespace {

std::string name_of(const nlohmann::json& trace) {
  return trace["cls"].get<std::string>() + " " + trace["dtype"].get<std::string>() + " " +
         trace["kwargs"].dump() + " K=" + trace["max_iters"].dump();
}

void replay(const nlohmann::json& trace, const std::string& type) {
  SCOPED_TRACE(name_of(trace));
  const FlatState state;
  const std::string dtype = trace["dtype"];
  const bool is_double = dtype == "float64";
  const double tolerance = is_double ? 1e-12 : 2e-6;
  std::optional<int64_t> length;
  if (!trace["max_iters"].is_null()) length = trace["max_iters"].get<int64_t>();
  const bool update_buffers = trace["kwargs"]["update_buffers"];

  TinyNet net = state.make(state.initial(dtype), is_double ? at::kDouble : at::kFloat);
  const auto average = build_average(type, to_node(trace["kwargs"]), net, length);
  const auto& averaged = trace["averaged"];
  size_t compared = 0;
  for (size_t t = 0; t < averaged.size(); ++t) {
    // The reference's momentum rises again beyond K; ours stays. Compared up to K.
    if (length && static_cast<int64_t>(t) > *length) break;
    state.load(net, state.source(dtype, static_cast<int>(t)));
    const std::vector<double> before = flatten(*average->module(), state.keys());
    average->update_parameters(net);
    const std::vector<double> after = flatten(*average->module(), state.keys());
    std::vector<size_t> leave_out;
    if (update_buffers) leave_out.push_back(kBatchesTracked);
    EXPECT_LE(largest_difference(after, averaged[t].get<std::vector<double>>(), leave_out),
              tolerance)
        << "update " << t;
    if (trace["action"][t] == "average") {
      EXPECT_NEAR(average->weight(static_cast<int64_t>(t)), trace["momentum"][t].get<double>(),
                  1e-12);
    }
    ++compared;
  }
  EXPECT_GE(compared, 6u);
  if (compared < averaged.size()) return;
  EXPECT_EQ(average->steps(), trace["steps_after"].get<int64_t>());

  const auto& input = state.model()["eval_input"];
  const at::Tensor image = at::tensor(input["values"].get<std::vector<double>>(), at::kDouble)
                               .view(input["shape"].get<std::vector<int64_t>>())
                               .to(is_double ? at::kDouble : at::kFloat);
  auto module = average->module<TinyNetImpl>();
  module->eval();
  const at::Tensor output = module->forward(image).to(at::kDouble).view({-1}).contiguous();
  const std::vector<double> outputs(output.data_ptr<double>(),
                                    output.data_ptr<double>() + output.numel());
  EXPECT_LE(largest_difference(outputs, trace["eval_output_after_last"].get<std::vector<double>>()),
            is_double ? 1e-11 : 1e-5);
}

TEST(Golden, ExponentialMovingAverageAgreesWithTheReferenceInEveryCase) {
  const auto cases = golden("ema.json")["cases"];
  ASSERT_EQ(cases.size(), 32u);
  for (const auto& trace : cases) replay(trace, "ExponentialMovingAverage");
}

TEST(Golden, CosineEMAAgreesWithTheReferenceUpToItsLength) {
  const auto cases = golden("cosine_double_angle.json")["cases"];
  ASSERT_EQ(cases.size(), 36u);
  for (const auto& trace : cases) replay(trace, "CosineEMA");
}

TEST(Golden, WeightsOfEveryRuleAgreeWithTheReference) {
  size_t compared = 0;
  TinyNet net;
  const auto cases = golden("weights.json")["cases"];
  for (const auto& row : cases) {
    const std::string rule = row["cls"];
    if (rule == "RampUpEMA") continue;  // not one of our averages
    SCOPED_TRACE(rule + " " + row["kwargs"].dump() + " K=" + row["max_iters"].dump());
    std::optional<int64_t> length;
    if (!row["max_iters"].is_null()) length = row["max_iters"].get<int64_t>();
    const auto average = build_average(rule, to_node(row["kwargs"]), net, length);
    // The reference computes the cosine's angle in float32; the golden file has the exact value
    // beside it.
    const auto& pairs =
        rule == "CosineEMA" ? row["k_and_momentum_double_angle"] : row["k_and_momentum"];
    for (const auto& pair : pairs) {
      const int64_t k = pair[0];
      if (length && k > *length) continue;
      EXPECT_NEAR(average->weight(k), pair[1].get<double>(), 1e-12) << "k = " << k;
      ++compared;
    }
    if (rule == "CosineEMA") {
      for (const auto& pair : row["k_and_docstring_formula"]) {
        const int64_t k = pair[0];
        if (k < *length) {
          EXPECT_GT(std::abs(average->weight(k) - pair[1].get<double>()), 1e-6);  // the wrong sign
        }
      }
    }
  }
  EXPECT_GT(compared, 150u);
}

TEST(Golden, CosineEMAStaysAtEndMomentumBeyondItsLength) {
  TinyNet net;
  for (const int64_t length : {5, 7, 100}) {
    const Node options = Node::mapping({{"momentum", 0.1}, {"end_momentum", 0.4}});
    const auto average = build_average("CosineEMA", options, net, length);
    for (const int64_t k : {length, length + 1, 2 * length, 100 * length}) {
      EXPECT_EQ(average->weight(k), 0.4) << "k = " << k << ", K = " << length;
    }
  }
}

}  // namespace
}  // namespace polyak::test
