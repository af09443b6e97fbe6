// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/averaged_model.h"

namespace polyak {

struct ExpMomentumEMAOptions : MomentumOptions<ExpMomentumEMAOptions> {
  ExpMomentumEMAOptions() : MomentumOptions(0.0002) {}

  /// How long the fast start lasts: the extra weight falls as exp(-(1 + k) / gamma).
  ExpMomentumEMAOptions& gamma(double value) { return gamma_ = value, *this; }
  double gamma() const { return gamma_; }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.key("gamma", &gamma_,
                "How long the fast start lasts: the extra weight falls as exp(-(1 + k) / gamma).",
                above(0));
  }

 private:
  double gamma_ = 2000;
};

/// Exponential moving average that starts fast: the weight at call k is
/// `(1 - momentum) * exp(-(1 + k) / gamma) + momentum`.
/// Source: MMDetection, ExpMomentumEMA (after YOLOX).
class POLYAK_API ExpMomentumEMA : public AveragedModel {
 public:
  /// @throws ConfigError when an option is out of range.
  explicit ExpMomentumEMA(const Model& model, ExpMomentumEMAOptions options = {},
                          ModuleFactory factory = nullptr);

  std::string rule_name() const override { return "ExpMomentumEMA"; }
  Node rule_options() const override { return options_to_node(options_); }

 protected:
  double rule(int64_t k) const override;
  double lasting_weight() const override { return options_.momentum(); }

 private:
  ExpMomentumEMAOptions options_;
};

}  // namespace polyak
