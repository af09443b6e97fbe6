// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/averaging/process_group.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"
#include "polyak/runtime/average_set.h"
#include "polyak/runtime/progress.h"

namespace polyak {

class HookList;

/// A normalisation layer with running statistics, registered in the model's tree of modules, that
/// is not one of LibTorch's BatchNorm layers. PreciseBNHook uses this interface to turn the
/// statistics into plain means.
class POLYAK_API RunningStatistics {
 public:
  virtual ~RunningStatistics();
  /// From here on, the statistics are the plain mean over the forward passes in train mode since
  /// this call. Until the first such pass, and in eval mode, the layer uses its current ones. Not
  /// called for a layer that is in eval mode.
  virtual void begin_mean() = 0;
  /// Keeps the statistics; they follow later batches as before begin_mean().
  virtual void end_mean() = 0;
};

/// Thrown from a validation, or from forward passes for a hook, when the run should end soon. Hooks
/// let it pass; the resumed loop makes up for what was interrupted.
class POLYAK_API Interrupted : public Error {
 public:
  using Error::Error;
  ~Interrupted() override;
};

/// Forward passes over the training data of a loop.
class POLYAK_API TrainingForward {
 public:
  virtual ~TrainingForward();
  /// Runs forward passes over training batches for `num_samples` samples, without gradients or
  /// optimizer steps, in the mode that the caller set, and without changing the order of training
  /// data.
  virtual void run_training_forward(int64_t num_samples) = 0;
};

/// Parameter schedules that belong to a runner.
class POLYAK_API Schedules {
 public:
  virtual ~Schedules();
  /// Makes one step of every schedule that counts epochs, or of every one that counts iterations.
  virtual void step_schedules(bool by_epoch) = 0;
};

/// Makes a run's checkpoints.
class POLYAK_API CheckpointSource {
 public:
  virtual ~CheckpointSource();
  /// The checkpoint of the current state before hooks add to it: meta, state_dict, optimizer, ...
  virtual Value make_checkpoint(bool with_optimizer, bool with_schedules) = 0;
  /// Whether a run of this kind could resume from such a checkpoint; `last_checkpoint` names only
  /// those.
  virtual bool can_resume_from(const Value& checkpoint) const;
};

/// What hooks see of a training loop. A host with its own runner class implements it, as the
/// reference runner does. All calls come from the training thread.
class POLYAK_API Runner {
 public:
  virtual ~Runner();

  /// The model that is trained.
  virtual ModelRef model() = 0;
  /// How far the run is.
  virtual const Progress& progress() const = 0;
  /// The hooks of this run.
  virtual HookList& hooks() = 0;
  /// Whether this run trains; false when it only evaluates.
  virtual bool training() const { return true; }
  /// Whether this run resumes from a checkpoint (raw weights, counters) instead of starting from
  /// weights.
  virtual bool resuming() const { return false; }

  /// The folder for output files, and the name of this run. Empty: none.
  virtual std::string work_dir() const { return ""; }
  virtual std::string timestamp() const { return ""; }

  /// The processes that train this model together; null: there is one. Every process calls the same
  /// hooks; only process 0 writes files.
  virtual std::shared_ptr<ProcessGroup> process_group() const { return nullptr; }
  /// Whether the model's buffers too are the same in all of them, as with synchronised BatchNorm.
  virtual bool has_same_buffers() const { return false; }

  /// The optimizer's learning rate (of its first parameter group), if there is one.
  virtual std::optional<double> learning_rate() const { return std::nullopt; }

  /// Drops the optimizer's state, such as momentum buffers and moments. @return whether this runner
  /// has an optimizer
  virtual bool reset_optimizer_state() { return false; }

  /// Whether the current epoch or iteration began earlier than hooks were told: a loop that does
  /// not report where they begin is noticed at its first call from inside, when time has passed.
  virtual bool began_unseen() const { return false; }

  /// A number for the logs, valid for this iteration: `lr`, `ema_momentum`, `time`.
  virtual void log(const std::string& /*name*/, double /*value*/) {}
  /// Numbers logged in this iteration: losses of the step and what hooks logged.
  virtual const Scalars& logged() const;

  /// Evaluates the model in its current state over the data of the running validation or test,
  /// without calling hooks.
  /// @return metrics, e.g. `accuracy`, each name followed by `suffix`
  /// @throws Error if none is running, or if it cannot be repeated
  virtual Scalars validate(const std::string& suffix);
  /// The names of the metrics that validate() returns, without a suffix; empty if unknown.
  virtual std::vector<std::string> metric_names() const { return {}; }

  /// Parts that not every loop has. A hook that needs one refuses a null pointer in check_run.
  virtual TrainingForward* training_forward() { return nullptr; }
  virtual CheckpointSource* checkpoint_source() { return nullptr; }
  virtual Schedules* schedules() { return nullptr; }

  /// Values that belong to the run and survive a resume (best scores, kept checkpoints, the last
  /// validation): a dict.
  virtual Value& run_info() { return run_info_; }
  /// Ends training after the current iteration.
  virtual void request_stop() = 0;
  /// Whether somebody requested that.
  virtual bool stop_requested() const { return false; }
  /// Whether a signal requested it, so that a validation and forward passes for hooks throw
  /// Interrupted at their next batch.
  virtual bool interrupted() const { return false; }

  /// Averages over this runner's model, in the order in which hooks added them.
  AverageSet& averages() { return averages_; }

 private:
  AverageSet averages_{[this] { return model(); },
                       [this](const std::string& name, double value) { log(name, value); },
                       [this] { return reset_optimizer_state(); }};
  Value run_info_ = Value::dict();
};

}  // namespace polyak
