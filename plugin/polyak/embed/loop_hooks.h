// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "polyak/averaging/model.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"
#include "polyak/runtime/progress.h"

namespace torch::optim {
class Optimizer;
}  // namespace torch::optim

namespace polyak {

class AveragedModel;
class Runner;

/// What a training loop says of itself. All of it may be left out; a hook that needs what is
/// missing says so before training.
class POLYAK_API LoopHooksSettings {
 public:
  /// The run's length: epochs and the iterations in each, or iterations alone for a loop that does
  /// not count epochs. CosineEMA takes its K from it. Each at least 1.
  LoopHooksSettings& max_epochs(int64_t value) { return max_epochs_ = value, *this; }
  LoopHooksSettings& epoch_length(int64_t value) { return epoch_length_ = value, *this; }
  LoopHooksSettings& max_iters(int64_t value) { return max_iters_ = value, *this; }
  /// Iterations whose gradients make one optimizer step.
  LoopHooksSettings& accumulative_counts(int64_t value) {
    return accumulative_counts_ = value, *this;
  }
  /// Lets hooks see the learning rate (of the first group) and checkpoints hold the optimizer's
  /// state. It must outlive the LoopHooks.
  LoopHooksSettings& optimizer(torch::optim::Optimizer& value) {
    return optimizer_ = &value, *this;
  }
  /// For PreciseBNHook: runs forward passes over training batches until the given number of samples
  /// went through; no gradient, no step, the model in the mode that it is in.
  LoopHooksSettings& training_forward(std::function<void(int64_t num_samples)> value) {
    return training_forward_ = std::move(value), *this;
  }

 private:
  friend class LoopHooks;
  std::optional<int64_t> max_epochs_, epoch_length_, max_iters_;
  int64_t accumulative_counts_ = 1;
  torch::optim::Optimizer* optimizer_ = nullptr;
  std::function<void(int64_t)> training_forward_;
};

using LoopHooksOptions [[deprecated("use polyak::LoopHooksSettings; this alias goes in 0.3")]] =
    LoopHooksSettings;

class LoopEvaluation;

/// The hooks of a YAML file in a training loop of one's own. The loop tells it how far it is; which
/// averages are kept, when checkpoints are written, what is logged, is the file's business, down to
/// nothing at all.
///
///     polyak::LoopHooks hooks("averaging.yaml", model, polyak::LoopHooksSettings()
///                             .max_epochs(epochs).epoch_length(batches).optimizer(optimizer));
///     hooks.resume();
///     while (hooks.progress().epoch < epochs && !hooks.stop_requested()) {
///       for (auto& batch : *loader) {
///         ...
///         optimizer.step();
///         hooks.after_step();
///         hooks.after_iter({{"loss", loss.item<double>()}});
///       }
///       hooks.after_epoch();
///       hooks.validate([&] { return polyak::Scalars{{"accuracy", accuracy_of(model)}}; });
///     }
///     hooks.after_train();
///
/// Keys of the file, with the trainer's meaning: `custom_hooks`, `default_hooks` (none unless
/// listed), `plugins`, `work_dir`, and `max_epochs` or `max_iters` where the loop states no length.
///
/// A call that comes at the wrong time throws Error and changes nothing. After an exception, of the
/// loop's own or of a validation, the raw weights are in the model. Threads: every call comes from
/// the training thread, but those that say otherwise.
class POLYAK_API LoopHooks {
 public:
  /// Reads the file, loads its plugins and builds its hooks. `model` must outlive this.
  /// @throws ConfigError for anything that is wrong in the file or cannot work in this loop,
  ///   PluginError
  LoopHooks(const std::string& file, const ModelRef& model, const LoopHooksSettings& options = {});
  /// The same for a config that is read already.
  static LoopHooks from_config(Node config, const ModelRef& model,
                               const LoopHooksSettings& options = {});
  ~LoopHooks();
  LoopHooks(const LoopHooks&) = delete;
  LoopHooks& operator=(const LoopHooks&) = delete;

  /// Goes on from work_dir's last checkpoint, if there is one: weights, averages, counters, and the
  /// optimizer's state where options.optimizer() gave one (LibTorch 1.13 keeps only the learning
  /// rate of its options). Before the first iteration; progress() then says where the loop goes on.
  /// @return whether there was one
  /// @throws CheckpointError when it does not fit, and what a hook throws that refuses it. Model,
  ///   optimizer, averages and counters are as before then.
  bool resume();

  /// Where an epoch and an iteration begin. May be left out unless a hook acts there: the first
  /// call from inside begins them.
  void before_epoch();
  void before_iter();
  /// The optimizer stepped: at most once in an iteration. An iteration without it, as in gradient
  /// accumulation, updates no average.
  void after_step();
  /// An iteration ended, after its step. `outputs`: losses and other numbers for the log; a number
  /// that comes from a GPU waits for it.
  void after_iter(const Scalars& outputs = {});
  /// An epoch ended. A loop that counts iterations alone has no epochs and must not call it.
  void after_epoch();
  /// The run ended.
  void after_train();

  /// Runs a validation, or a test, on what the hooks put into the model (averaged weights, with an
  /// EMAHook); `evaluate` gives the metrics. It is called again for evaluate_on_origin and for
  /// named averages.
  /// @return the metrics with those that hooks added
  Scalars validate(const std::function<Scalars()>& evaluate);
  Scalars test(const std::function<Scalars()>& evaluate);
  /// The same for code that fits into no function: the weights are in the model until the guard
  /// goes. Needs no second pass, so evaluate_on_origin and named averages are refused at its end.
  [[nodiscard]] LoopEvaluation validation();
  [[nodiscard]] LoopEvaluation testing();

  /// Ends the run early, or says whether somebody (a hook, another thread) asked for that. The loop
  /// looks at it where it can stop. Safe from any thread.
  void request_stop();
  bool stop_requested() const;
  /// From here on SIGTERM, SIGINT and SIGUSR1 ask for a stop instead of ending the process
  /// (StopSignals says how): the loop sees it by stop_requested(), and after_train() saves what a
  /// later run goes on from. after_train(), or the end of this object, puts the earlier handlers
  /// back.
  void stop_on_signals();
  /// The signal that asked for the stop; 0: none. Also after after_train(), so that the program can
  /// end with the status of its own choice (128 + signal is usual).
  int stop_signal() const;
  /// Finished iterations, and optimizer steps, of the run so far. Safe from any thread.
  int64_t iterations_done() const;
  int64_t steps_done() const;

  /// Where the run is: `epoch` and `iter` count finished ones, those before a resume too.
  const Progress& progress() const;
  /// Finished iterations of the present epoch; after a resume, how many batches to skip.
  int64_t batch() const;
  /// Whether a validation was done where the run stands. A run that was killed between a checkpoint
  /// and the validation after it goes on without that validation, unless the loop makes up for it:
  /// `if (hooks.resume() && !hooks.validated()) hooks.validate(...)`.
  bool validated() const;
  /// The average of the EMAHook with this `name`; a null pointer where the file asks for none.
  std::shared_ptr<AveragedModel> average(const std::string& name = "") const;
  /// What the hooks see.
  Runner& runner();

 private:
  friend class LoopEvaluation;
  class Loop;
  explicit LoopHooks(std::shared_ptr<Loop> loop);
  LoopEvaluation evaluate(bool test, const std::function<Scalars()>* again);
  std::shared_ptr<Loop> loop_;
};

/// A validation or test pass of LoopHooks: hooks' weights are in the model until this goes,
/// whatever is thrown meanwhile.
class POLYAK_API LoopEvaluation {
 public:
  LoopEvaluation(LoopEvaluation&&) noexcept;
  ~LoopEvaluation();
  /// Optional: around each batch, for hooks that act there.
  void before_iter(int64_t batch);
  void after_iter(int64_t batch);
  /// Ends the pass and gives its metrics to the hooks (best checkpoints, the log).
  /// @return the metrics with those that hooks added
  Scalars finish(Scalars metrics);

 private:
  friend class LoopHooks;
  struct State;
  explicit LoopEvaluation(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polyak
