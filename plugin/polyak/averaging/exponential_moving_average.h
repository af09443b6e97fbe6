// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/averaged_model.h"

namespace polyak {

struct ExponentialMovingAverageOptions : MomentumOptions<ExponentialMovingAverageOptions> {
  ExponentialMovingAverageOptions() : MomentumOptions(0.0002) {}
};

/// Exponential moving average with a constant momentum m: `avg = (1 - m) * avg + m * source`.
/// Source: MMEngine, ExponentialMovingAverage (Polyak and Juditsky 1992 for averaging as such).
class POLYAK_API ExponentialMovingAverage : public AveragedModel {
 public:
  /// @throws ConfigError when an option is out of range.
  explicit ExponentialMovingAverage(const Model& model,
                                    ExponentialMovingAverageOptions options = {},
                                    ModuleFactory factory = nullptr);

  std::string rule_name() const override { return "ExponentialMovingAverage"; }
  Node rule_options() const override { return options_to_node(options_); }

 protected:
  double rule(int64_t k) const override;

 private:
  ExponentialMovingAverageOptions options_;
};

}  // namespace polyak
