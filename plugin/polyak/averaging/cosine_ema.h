// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/averaged_model.h"

namespace polyak {

struct CosineEMAOptions : MomentumOptions<CosineEMAOptions> {
  CosineEMAOptions() : MomentumOptions(0.004) {}

  /// The weight that the schedule ends with, in [0, 1].
  CosineEMAOptions& end_momentum(double value) { return end_momentum_ = value, *this; }
  double end_momentum() const { return end_momentum_; }
  /// K: the updates over which the momentum goes from start to end, at least 1. Required, unless
  /// the training loop knows its own length.
  CosineEMAOptions& max_iters(int64_t value) { return max_iters_ = value, *this; }
  std::optional<int64_t> max_iters() const { return max_iters_; }

  void visit(OptionVisitor& visitor) override {
    MomentumOptions::visit(visitor);
    visitor.key("end_momentum", &end_momentum_, "The momentum that the schedule ends with.",
                closed_interval(0, 1));
    visitor.key(
        "max_iters", &max_iters_,
        "Updates over which the momentum goes to end_momentum; null: the length of the run.",
        steps_from(1));
  }

 private:
  double end_momentum_ = 0.0;
  std::optional<int64_t> max_iters_;
};

/// Exponential moving average whose momentum follows a half cosine over the run:
///
///     m(k) = end + (start - end) * (1 + cos(pi * k / K)) / 2,    k = updates so far, K = max_iters
///
/// so m goes from `momentum` at k = 0 to `end_momentum` at k = K, and stays there. The first update
/// copies. Source: BYOL (Grill et al. 2020, arXiv:2006.07733) and mmpretrain's CosineEMA.
/// mmpretrain's docstring has the sign of the second term wrong (its code is right), and its
/// momentum rises again beyond K.
class POLYAK_API CosineEMA : public AveragedModel {
 public:
  /// @throws ConfigError when an option is out of range, or max_iters is not given.
  explicit CosineEMA(const Model& model, CosineEMAOptions options = {},
                     ModuleFactory factory = nullptr);

  std::string rule_name() const override { return "CosineEMA"; }
  Node rule_options() const override { return options_to_node(options_); }

 protected:
  double rule(int64_t k) const override;

 private:
  CosineEMAOptions options_;
};

}  // namespace polyak
