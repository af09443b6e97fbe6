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
};

/// Where a run stands. Right inside hooks as well: in after_train_iter and after_train_epoch it
/// counts the iteration and the epoch that just ended, which Progress does not count yet.
struct RunPlace {
  int64_t epochs = 0;          // finished ones
  int64_t iters = 0;           // finished ones
  int64_t batch = 0;           // finished iterations of the present epoch
  bool between_steps = false;  // gradients were gathered for an optimizer step that is to come
};

/// What the checkpoint of a runner holds beside what all of them begin with.
struct CheckpointParts {
  std::string config;                 // its text
  std::optional<Value> random_state;  // {cpu: uint8 tensor, device: uint8 tensor}
  std::optional<Value> optimizer;     // its state
  bool gradients = false;             // those that were gathered for a step that is to come
};

/// What of a run is restored beside its model, its averages and its counters.
struct RestoreParts {
  /// Called when the hooks have taken their part and progress() says the place, before the model
  /// changes. What it throws ends restore(); its own part is then as it was before.
  std::function<void()> load;
  /// Whether a checkpoint from the last iteration of an epoch leads to that epoch's end, or behind
  /// it.
  bool repeat_epoch_end = true;
};

/// The state machine of a run, for every kind of loop: it knows what may come next, counts epochs,
/// iterations and optimizer steps, and calls the hook points in their order. The loop says what
/// happened; what it leaves out is made up by the next call, so that after_iter() alone begins the
/// run, the epoch and the iteration.
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
/// A call that comes at the wrong time throws Error and changes nothing. When a hook throws, the
/// run counts what ended as ended. All calls come from the training thread.
class POLYAK_API RunLoop {
 public:
  /// What a run is doing.
  enum class Phase {
    built,            // no point was called yet
    ready,            // after before_run: a checkpoint may be restored
    between_epochs,   // training
    in_epoch,         // between two iterations
    in_iteration,     //
    after_iteration,  // its after points are called
    after_epoch,      // the same of an epoch
    evaluating,       // a validation or test runs; the phase of before comes back after it
    ended,            // after after_train
  };

  /// @param runner what hooks see, and whose hooks() are called; it must outlive this
  /// @param name of the class that the loop's owner knows, for messages; a literal
  explicit RunLoop(Runner& runner, const char* name = "RunLoop");

  RunLoop(const RunLoop&) = delete;
  RunLoop& operator=(const RunLoop&) = delete;

  /// Sets the lengths that hooks see, and counters that begin at 0. Before before_run().
  /// @param iters iterations, each with an optimizer step, that were done before
  void set_length(const RunLength& length, int64_t iters = 0);

  /// What the run is doing now.
  Phase phase() const { return phase_; }
  /// Whether before_train was called, and after_train was not; also while an evaluation runs.
  bool in_training() const;
  const Progress& progress() const { return progress_; }
  RunPlace place() const;
  /// Whether the run goes on from a checkpoint: from restore() on.
  bool resuming() const { return resuming_; }
  /// Whether the epoch or iteration that hooks are told of began before the loop told.
  bool began_unseen() const { return began_unseen_; }
  /// Numbers of the present iteration; before_iter() empties them.
  Scalars& logged() { return logged_; }
  const Scalars& logged() const { return logged_; }

  /// The points of the same names (before_epoch: before_train_epoch; ...).
  void before_run();
  void before_train();
  void before_epoch();
  void before_iter();
  /// The optimizer stepped: at most once in an iteration. No point is called.
  void after_step();
  /// @param outputs losses, `loss` their total; they join logged()
  void after_iter(const Scalars& outputs = {});
  void after_epoch();
  /// Ends the one epoch of a loop that counts iterations, too.
  void after_train();
  void after_run();

  /// One validation or test pass.
  /// @param measure gives the metrics; called again where a hook wants other weights measured
  /// @return the metrics with those that hooks added
  Scalars evaluate(Hook::Stage stage, const std::function<Scalars()>& measure);
  /// For Runner::validate: measures once more, each name followed by `suffix`.
  /// @return nothing where no pass runs, or one that cannot be repeated
  std::optional<Scalars> measure_again(const std::string& suffix) const;

  /// A checkpoint of this moment: finished counts, the model's tensors (handles, not copies), the
  /// run_info, and `parts`. Hooks add to it.
  Value begin_checkpoint(CheckpointParts parts) const;
  /// Goes on from a checkpoint whose names fit the model (fit_checkpoint()): gives it to the hooks,
  /// then takes the counters, the raw weights, and gathered gradients. All of it or nothing: when a
  /// hook refuses it, or parts.load, then model, averages, counters and run_info are as before. For
  /// that it holds a copy of the averages meanwhile. Between before_run() and before_train().
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

  Runner& runner_;
  const char* name_;
  Phase phase_ = Phase::built;
  Phase paused_ = Phase::built;  // that comes back when an evaluation ends
  Progress progress_;
  Scalars logged_;
  int64_t batch_ = 0;
  int64_t iters_at_step_ = 0;  // finished iterations with that of the last step
  bool resuming_ = false;
  bool began_unseen_ = false;
  const std::function<Scalars()>* again_ = nullptr;  // of the evaluation that runs
};

/// A validation or test pass of a RunLoop, for loops that call the points around batches, or that
/// cannot measure by one function. Hooks' weights are in the model until this goes, whatever is
/// thrown meanwhile.
class POLYAK_API EvaluationPass {
 public:
  /// @param again measures once more; must outlive this. Null: nothing can.
  EvaluationPass(RunLoop& loop, Hook::Stage stage, const std::function<Scalars()>* again);
  EvaluationScope& scope() { return scope_; }
  /// Ends the pass. @return the metrics with those that hooks added
  Scalars finish(Scalars metrics);

 private:
  /// Begun before the scope and ended after it.
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
