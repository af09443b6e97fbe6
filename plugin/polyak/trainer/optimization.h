// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/config/node.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/progress.h"
#include "polyak/runtime/runner.h"
#include "polyak/trainer/optim_wrapper.h"
#include "polyak/trainer/param_scheduler.h"
#include "polyak/trainer/starting_point.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

/// What changes the weights in a training run: the optimizer and its schedules.
class Optimization final : public Schedules {
 public:
  /// Must outlive the object, except for `start`.
  struct Context {
    const Node* config = nullptr;
    const TrainConfig* options = nullptr;
    const Catalog* catalog = nullptr;
    const Progress* progress = nullptr;
  };

  /// Reorders the optimizer state and the schedules of a checkpoint to resume from into the
  /// config's order.
  /// @throws ConfigError, CheckpointError
  Optimization(const Context& context, const ModelRef& model, StartingPoint& start);

  OptimWrapper& wrapper() { return *wrapper_; }
  const OptimWrapper& wrapper() const { return *wrapper_; }
  double lr() const { return wrapper_->optimizer().lr(); }
  bool has_schedules() const { return !schedulers_.empty(); }
  /// How many tensors of its size the optimizer keeps for a parameter; empty: a plugin's may know.
  std::optional<int64_t> tensors_of_state() const;
  void step_schedules(bool by_epoch) override;

  /// Resumes from the checkpoint that was passed to the constructor, at the position of progress:
  /// with the checkpoint's settings or, with `resume_options: config`, the config's settings at
  /// that position.
  void restore(const Value& checkpoint);
  /// The states of the schedules, for `param_schedulers` of a checkpoint.
  Value schedules_state() const;

 private:
  bool takes_numbers_of_config() const { return context_.options->resume_options == "config"; }
  void add_schedules();
  void replay_schedules(const Value& checkpoint);

  Context context_;
  std::unique_ptr<OptimWrapper> wrapper_;
  std::vector<std::shared_ptr<ParamScheduler>> schedulers_;
};

/// MMEngine's auto_scale_lr: the learning rate of the config is for base_batch_size samples an
/// iteration. Replaces it in `optim_wrapper`. @param samples of an iteration, of all processes
void scale_learning_rate(TrainConfig& options, int64_t samples);

}  // namespace polyak
