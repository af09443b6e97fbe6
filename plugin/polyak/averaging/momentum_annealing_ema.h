// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/averaged_model.h"

namespace polyak {

struct MomentumAnnealingEMAOptions : MomentumOptions<MomentumAnnealingEMAOptions> {
  MomentumAnnealingEMAOptions() : MomentumOptions(0.0002) {}

  /// How long the fast start lasts: the weight falls as gamma / (gamma + k).
  MomentumAnnealingEMAOptions& gamma(double value) { return gamma_ = value, *this; }
  double gamma() const { return gamma_; }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.key("gamma", &gamma_,
                "How long the fast start lasts: the weight falls as gamma / (gamma + k).",
                above(0));
  }

 private:
  double gamma_ = 100;
};

/// Exponential moving average that starts fast: the weight at call k is `max(momentum, gamma /
/// (gamma + k))`. Source: MMEngine, MomentumAnnealingEMA.
class POLYAK_API MomentumAnnealingEMA : public AveragedModel {
 public:
  /// @throws ConfigError when an option is out of range.
  explicit MomentumAnnealingEMA(const Model& model, MomentumAnnealingEMAOptions options = {},
                                ModuleFactory factory = nullptr);

  std::string rule_name() const override { return "MomentumAnnealingEMA"; }
  Node rule_options() const override { return options_to_node(options_); }

 protected:
  double rule(int64_t k) const override;
  double lasting_weight() const override { return options_.momentum(); }

 private:
  MomentumAnnealingEMAOptions options_;
};

}  // namespace polyak
