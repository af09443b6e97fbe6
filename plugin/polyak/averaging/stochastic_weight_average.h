// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/averaged_model.h"

namespace polyak {

struct StochasticWeightAverageOptions : AverageOptions<StochasticWeightAverageOptions> {};

/// The plain mean of the weights at calls 0, interval, 2 * interval, ...: the weight at call k is
/// `1 / (k / interval + 1)` with whole division. Re-estimate BatchNorm statistics before using it
/// (PreciseBNHook).
/// Source: Izmailov et al. 2018, arXiv:1803.05407; MMEngine, StochasticWeightAverage.
class POLYAK_API StochasticWeightAverage : public AveragedModel {
 public:
  /// @throws ConfigError when an option is out of range.
  explicit StochasticWeightAverage(const Model& model, StochasticWeightAverageOptions options = {},
                                   ModuleFactory factory = nullptr);

  std::string rule_name() const override { return "StochasticWeightAverage"; }
  Node rule_options() const override { return options_to_node(options_); }

 protected:
  double rule(int64_t k) const override;

 private:
  StochasticWeightAverageOptions options_;
};

}  // namespace polyak
