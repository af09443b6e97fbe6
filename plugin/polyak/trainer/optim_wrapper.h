// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/config/options.h"
#include "polyak/trainer/mixed_precision.h"
#include "polyak/trainer/optimizer.h"

namespace polyak {

class Catalog;
class GradientReducer;

struct ClipGradOptions : Options {
  std::optional<double> max_norm;
  double norm_type = 2;
  std::optional<double> max_value;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// One entry of `custom_keys`.
struct ParameterRuleOptions : Options {
  ParameterRule rule;
  void visit(OptionVisitor& visitor) override;
};

struct ParamwiseOptions : Options {
  Node custom_keys;
  void visit(OptionVisitor& visitor) override;
};

struct OptimWrapperOptions : Options {
  std::string type = "OptimWrapper";
  Node optimizer;
  int64_t accumulative_counts = 1;
  Node clip_grad;
  Node paramwise_cfg;
  std::optional<std::string> dtype;
  Node loss_scale;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// An optimizer with gradient accumulation and clipping, like MMEngine's OptimWrapper. Gradients of
/// `accumulative_counts` iterations are averaged into one step; if fewer iterations remain at the
/// end of a run, they also make a step. `type: AmpOptimWrapper` computes the loss in bfloat16 or
/// float16 where that gains something.
class OptimWrapper {
 public:
  /// @param node the keys of OptimWrapperOptions
  /// @param parameters by name; paramwise_cfg.custom_keys is matched against the names
  OptimWrapper(const Node& node, const Catalog& catalog,
               const std::vector<NamedTensor>& parameters);

  Optimizer& optimizer() { return *optimizer_; }
  ~OptimWrapper();
  /// For several processes, whose gradients become equal before each step.
  void set_reducer(std::unique_ptr<GradientReducer> reducer);
  /// Sets the position of the run: `iter` of `max_iters` iterations are finished. Between two
  /// steps, the accumulated gradients are in the parameters.
  void start(int64_t iter, int64_t max_iters);
  int64_t accumulative_counts() const { return options_.accumulative_counts; }
  /// Whether there are accumulated gradients for the next step.
  bool between_steps() const;
  /// Call it before the forward pass of an iteration.
  void before_forward();
  /// What the forward pass and the loss are computed in; empty: the weights' dtype.
  std::optional<c10::ScalarType> autocast_dtype() const { return autocast_dtype_; }
  /// Whether the next update() makes a step.
  bool steps_next() const;
  /// The backward pass for one iteration's loss (a scalar tensor), and the step if it is due.
  /// @param loss undefined: this process, of several, has no samples
  /// @return whether the optimizer stepped; not after gradients that are not finite, if the loss is
  ///   scaled
  bool update(const at::Tensor& loss);
  /// The norm of all gradients before the last step, if clip_grad has a max_norm.
  std::optional<double> grad_norm() const { return grad_norm_; }
  /// The optimizer's state, with `loss_scaler` if the loss is scaled, as in MMEngine.
  Value state_dict() const;
  /// Takes the `loss_scaler` of such a state, if it has one.
  void load_loss_scale(const Value& state);

 private:
  void set_up_mixed_precision(const Node& node);
  void clip();
  bool is_between_steps(int64_t iter) const;

  std::unique_ptr<GradientReducer> reducer_;  // null: one process
  std::shared_ptr<Optimizer> optimizer_;
  OptimWrapperOptions options_;
  std::optional<ClipGradOptions> clip_grad_;
  std::optional<double> grad_norm_;
  std::optional<c10::ScalarType> autocast_dtype_;
  std::optional<LossScale> loss_scale_;
  int64_t iter_ = 0;
  int64_t max_iters_ = 0;
};

}  // namespace polyak
