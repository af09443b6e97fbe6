// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"
#include "polyak/runtime/evaluation_scope.h"
#include "polyak/runtime/hook.h"
#include "polyak/runtime/progress.h"

namespace polyak {

class Runner;

/// How long a run lasts. 0: unknown.
struct RunLength {
  bool by_epoch = true;             // false: the loop counts iterations, and hooks see one epoch
  int64_t max_epochs = 0;           // epochs of the run
  int64_t epoch_length = 0;         // iterations in an epoch
  int64_t max_iters = 0;            // iterations of the run
  int64_t accumulative_counts = 1;  // iterations whose gradients make one optimizer step; from 1
  int64_t batch_size = 0;           // samples of an iteration, of every process
};

/// The position of a run. Correct inside hooks as well: in after_train_iter and after_train_epoch
/// it counts the iteration and the epoch that just ended, which Progress does not count yet.
struct RunPlace {
  int64_t epochs = 0;          // finished ones
  int64_t iters = 0;           // finished ones
  int64_t batch = 0;           // finished iterations of the current epoch
  bool between_steps = false;  // gradients are accumulated for a later optimizer step
};

/// The parts of a runner's checkpoint besides its common start.
struct CheckpointParts {
  std::string config;                 // its text
  std::optional<Value> random_state;  // {cpu: uint8 tensor, device: uint8 tensor}
  std::optional<Value> optimizer;     // its state
  bool gradients = false;             // those accumulated for a later step
};

/// What is restored besides the model, the averages and the counters.
struct RestoreParts {
  /// Called after the hooks have restored their part and progress() is set, before the model
  /// changes. If it throws, restore() ends; it must leave its own part as it was.
  std::function<void()> load;
  /// Whether a checkpoint from the last iteration of an epoch resumes at that epoch's end, or after
  /// it.
  bool repeat_epoch_end = true;
};

/// The state machine of a run, for every kind of loop: it knows which calls are allowed next,
/// counts epochs, iterations and optimizer steps, and calls the hook points in their order. The
/// loop reports what happened. The next call makes up for calls that were left out, so that
/// after_iter() alone begins the run, the epoch and the iteration.
///
///     while (loop.progress().epoch < epochs) {
///       for (auto& batch : batches) {
///         loop.before_iter();
///         ...
///         loop.after_step();
///         loop.after_iter({{"loss", loss}});
///       }
///       loop.after_epoch();
///       loop.evaluate(Hook::Stage::val, [&] { return Scalars{{"accuracy", accuracy()}}; });
///     }
///     loop.after_train();
///     loop.after_run();
///
/// A call at the wrong time throws Error and changes nothing. If a hook throws, what ended still
/// counts as ended. All calls come from the training thread.
class POLYAK_API RunLoop {
 public:
  /// What a run is doing.
  enum class Phase {
    built,            // no point was called yet
    ready,            // after before_run: a checkpoint may be restored
    between_epochs,   // training
    in_epoch,         // between two iterations
    in_iteration,     //
    after_iteration,  // its after_* points are running
    after_epoch,      // the same for an epoch
    evaluating,       // a validation or test runs; the earlier phase returns after it
    ended,            // after after_train
  };

  /// @param runner what hooks see, and whose hooks() are called; must outlive this object
  /// @param name the class that the loop's owner knows, for messages; a literal
  explicit RunLoop(Runner& runner, const char* name = "RunLoop");

  RunLoop(const RunLoop&) = delete;
  RunLoop& operator=(const RunLoop&) = delete;

  /// Sets the lengths that hooks see, and starts the counters at 0. Call it before before_run().
  /// @param iters iterations, each with an optimizer step, that were done before
  void set_length(const RunLength& length, int64_t iters = 0);

  /// What the run is doing now.
  Phase phase() const { return phase_; }
  /// Whether before_train was called and after_train was not; true during an evaluation too.
  bool in_training() const;
  const Progress& progress() const { return progress_; }
  RunPlace place() const;
  /// Whether the run resumes from a checkpoint: true from restore() on.
  bool resuming() const { return resuming_; }
  /// Whether the current epoch or iteration began before the loop reported it.
  bool began_unseen() const { return began_unseen_; }
  /// Numbers of the current iteration; before_iter() clears them.
  Scalars& logged() { return logged_; }
  const Scalars& logged() const { return logged_; }

  /// The points of the same names (before_epoch: before_train_epoch; ...).
  void before_run();
  void before_train();
  void before_epoch();
  void before_iter();
  /// The optimizer made a step: at most one per iteration. Calls no point.
  void after_step();
  /// @param outputs losses, with `loss` their total; they are added to logged(). The first loss (a
  ///   name that contains "loss") that is not finite is named in the log, once per run.
  void after_iter(const Scalars& outputs = {});
  void after_epoch();
  /// Also ends the single epoch of a loop that counts iterations, and warns if an average holds a
  /// NaN or an infinity.
  void after_train();
  void after_run();

  /// One validation or test pass.
  /// @param measure returns the metrics; called again if a hook wants other weights measured
  /// @return the metrics, including those that hooks added
  Scalars evaluate(Hook::Stage stage, const std::function<Scalars()>& measure);
  /// For Runner::validate: measures once more, and appends `suffix` to each name.
  /// @return nothing if no pass is running, or if it cannot be repeated
  std::optional<Scalars> measure_again(const std::string& suffix) const;

  /// A checkpoint of the current state: finished counts, the model's tensors (handles, not copies),
  /// the run_info, and `parts`. Hooks add to it.
  Value begin_checkpoint(CheckpointParts parts) const;
  /// Resumes from a checkpoint whose names fit the model (fit_checkpoint()): passes it to the
  /// hooks, then restores the counters, the raw weights, and accumulated gradients. All or nothing:
  /// if a hook or parts.load refuses it, model, averages, counters and run_info are unchanged. It
  /// keeps a copy of the averages for that. Call it between before_run() and before_train().
  /// @throws CheckpointError, and what a hook or parts.load throws
  void restore(Value& checkpoint, const RestoreParts& parts);

 private:
  friend class EvaluationPass;
  Phase phase_of_training() const { return phase_ == Phase::evaluating ? paused_ : phase_; }
  void check_call(const char* call) const;
  void check_iteration_ended(const char* call) const;
  void enter_training(const char* call);
  void enter_epoch(const char* call, bool seen);
  void enter_iter(const char* call, bool seen);
  void take_place(const Value& checkpoint, bool repeat_epoch_end);
  void warn_of_loss(const Scalars& outputs);
  void warn_of_averages() const;

  Runner& runner_;
  const char* name_;
  Phase phase_ = Phase::built;
  Phase paused_ = Phase::built;  // returns when an evaluation ends
  Progress progress_;
  Scalars logged_;
  int64_t batch_ = 0;
  int64_t iters_at_step_ = 0;  // finished iterations, including that of the last step
  bool resuming_ = false;
  bool began_unseen_ = false;
  bool warned_of_loss_ = false;
  const std::function<Scalars()>* again_ = nullptr;  // of the running evaluation
};

/// A validation or test pass of a RunLoop, for loops that call the points before and after each
/// batch, or that cannot measure with one function. Hooks' weights are in the model until this is
/// destroyed, also when an exception is thrown.
class POLYAK_API EvaluationPass {
 public:
  /// @param again measures once more; must outlive this object. Null: not possible.
  EvaluationPass(RunLoop& loop, Hook::Stage stage, const std::function<Scalars()>* again);
  EvaluationScope& scope() { return scope_; }
  /// Ends the pass. @return the metrics, including those that hooks added
  Scalars finish(Scalars metrics);

 private:
  /// Begins before the scope and ends after it.
  class Mark {
   public:
    Mark(RunLoop& loop, const char* call, const std::function<Scalars()>* again);
    ~Mark();
    Mark(const Mark&) = delete;
    Mark& operator=(const Mark&) = delete;

   private:
    RunLoop& loop_;
  };
  Mark mark_;
  EvaluationScope scope_;
};

}  // namespace polyak
