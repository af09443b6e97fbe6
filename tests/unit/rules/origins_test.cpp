// SPDX-License-Identifier: Apache-2.0
// Averages of other libraries (tests/golden/averages.json, written by make_averages.py), each with
// the block of ours that must give the same numbers.
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <cmath>

#include "polyak/config/load.h"
#include "support/averages.h"
#include "support/golden.h"

namespace polyak::test {
namespace {

/// The walk of the model's weights, as make_averages.py makes it: multiples of 2^-12, which float32
/// holds exactly.
class WalkingNet {
 public:
  explicit WalkingNet(at::ScalarType dtype) : net_(2, 1) {
    net_->to(dtype);
    const torch::NoGradGuard no_grad;
    for (at::Tensor& tensor : net_->parameters()) tensor.zero_();
    walk();
  }

  void walk() {
    const torch::NoGradGuard no_grad;
    for (at::Tensor& tensor : net_->parameters()) {
      std::vector<double> deltas;
      for (int64_t i = 0; i < tensor.numel(); ++i) deltas.push_back(next());
      tensor += at::tensor(deltas, at::kDouble).view(tensor.sizes()).to(tensor.scalar_type());
    }
  }

  std::vector<double> values() const {
    std::vector<double> all;
    for (const at::Tensor& tensor : net_->parameters()) {
      const at::Tensor flat = tensor.detach().to(at::kDouble).flatten();
      all.insert(all.end(), flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel());
    }
    return all;
  }

  torch::nn::Linear& net() { return net_; }

 private:
  double next() {
    state_ = (state_ * 1103515245 + 12345) % (uint64_t{1} << 31);
    return (static_cast<double>((state_ >> 16) % 1025) - 512) / 4096;
  }

  torch::nn::Linear net_;
  uint64_t state_ = 17;
};

double tolerance_of(const nlohmann::json& trace) {
  if (trace["dtype"] == "float64") return 1e-12;
  // MMagic computes its weight in float32.
  return trace["origin"].get<std::string>().rfind("mmagic", 0) == 0 ? 1e-6 : 2e-6;
}

/// What the average publishes: a swap puts it into the model.
std::vector<double> published(AveragedModel& average, WalkingNet& model) {
  const SwapGuard guard = average.swap(model.net());
  return model.values();
}

void expect_near(const std::vector<double>& found, const nlohmann::json& wanted, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.size(), wanted.size());
  EXPECT_LE(largest_difference(found, wanted.get<std::vector<double>>()), tolerance) << what;
}

void walk_beside(const nlohmann::json& trace, const std::vector<int64_t>& kept) {
  const std::string block = trace["block"];
  SCOPED_TRACE(trace["origin"].get<std::string>() + ", " + trace["dtype"].get<std::string>() +
               ", ours: " + block);
  WalkingNet model(trace["dtype"] == "float64" ? at::kDouble : at::kFloat);
  Node options = parse_config(block, "averages.json");
  std::shared_ptr<AveragedModel> average;
  // A weight above 0.5 is meant here, and what is said of it no concern of this test.
  log_of([&] { average = build_average(options.at("type").as_string(), options, model.net()); });
  const double tolerance = tolerance_of(trace);
  const int64_t first = trace.value("from", int64_t{0});
  size_t row = 0, compared = 0;
  for (int64_t k = 0; row < kept.size(); ++k) {
    model.walk();
    average->update_parameters(model.net());
    if (k != kept[row]) continue;
    const std::string when = "after update " + std::to_string(k);
    if (k >= first) {
      expect_near(published(*average, model), trace["averages"][row], tolerance, when);
      ++compared;
    }
    if (trace.contains("models")) {
      expect_near(model.values(), trace["models"][row], tolerance, "the model " + when);
    }
    ++row;
  }
  EXPECT_GE(compared, 4u);
}

/// Every origin whose block names this rule.
void walk_beside_all(const std::string& rule, size_t least) {
  const nlohmann::json golden_file = golden("averages.json");
  const auto kept = golden_file["steps"].get<std::vector<int64_t>>();
  size_t found = 0;
  for (const nlohmann::json& trace : golden_file["cases"]) {
    const std::string block = trace["block"];
    if (block.find("type: " + rule + ",") == std::string::npos &&
        block.find("type: " + rule + "}") == std::string::npos) {
      continue;
    }
    walk_beside(trace, kept);
    ++found;
  }
  EXPECT_GE(found, least) << "cases";
}

TEST(AveragesOfOtherLibraries, ConstantWeightsAreTorchsTimmsAndTorchEmas) {
  walk_beside_all("ExponentialMovingAverage", 30);
}

TEST(AveragesOfOtherLibraries, WarmUpsAreTimmsDiffusersKDiffusionsAndEmaPytorchs) {
  walk_beside_all("WarmupEMA", 40);
}

TEST(AveragesOfOtherLibraries, RampUpEMAIsMMagics) {
  walk_beside_all("RampUpEMA", 6);
}

TEST(AveragesOfOtherLibraries, BEMAIsTRLs) {
  walk_beside_all("BEMA", 24);
}

TEST(AveragesOfOtherLibraries, GrowingHalfLifeEMAIsTorchtitans) {
  walk_beside_all("GrowingHalfLifeEMA", 18);
}

TEST(AveragesOfOtherLibraries, PowerFunctionEMAIsEDM2s) {
  walk_beside_all("PowerFunctionEMA", 12);
}

TEST(AveragesOfOtherLibraries, StochasticWeightAverageIsTorchsAndLeelas) {
  walk_beside_all("StochasticWeightAverage", 12);
}

TEST(AveragesOfOtherLibraries, SlidingWindowAverageIsTheMeanOfLAWAsQueue) {
  walk_beside_all("SlidingWindowAverage", 6);
}

}  // namespace
}  // namespace polyak::test
