// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "polyak/averaging/model.h"
#include "polyak/averaging/process_group.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"
#include "polyak/runtime/progress.h"

namespace torch::optim {
class Optimizer;
}  // namespace torch::optim

namespace polyak {

class AveragedModel;
class Runner;

/// What a training loop states about itself. Everything is optional; a hook that needs something
/// missing reports it before training.
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
  /// Samples of an iteration, of all processes, for averages with base_batch_size or a length in
  /// samples.
  LoopHooksSettings& batch_size(int64_t value) { return batch_size_ = value, *this; }
  /// Lets hooks see the learning rate (of the first group) and checkpoints hold the optimizer's
  /// state. It must outlive the LoopHooks.
  LoopHooksSettings& optimizer(torch::optim::Optimizer& value) {
    return optimizer_ = &value, *this;
  }
  /// The processes that train this model together: one that joined them (join_processes) or the
  /// loop's own c10d group (wrap_c10d). Each process makes the same calls of its LoopHooks. Process
  /// 0 writes the files and the log; stop_requested() turns true in all at the same optimizer step;
  /// averages may be cut (`shard`) and compared (`verify`). Metrics are those of process 0.
  /// Gradients and weights are the loop's.
  LoopHooksSettings& process_group(std::shared_ptr<ProcessGroup> value) {
    return process_group_ = std::move(value), *this;
  }
  /// For PreciseBNHook: runs forward passes over training batches for the given number of samples,
  /// without gradients or optimizer steps, in the model's current mode.
  LoopHooksSettings& training_forward(std::function<void(int64_t num_samples)> value) {
    return training_forward_ = std::move(value), *this;
  }

 private:
  friend class LoopHooks;
  std::optional<int64_t> max_epochs_, epoch_length_, max_iters_, batch_size_;
  int64_t accumulative_counts_ = 1;
  torch::optim::Optimizer* optimizer_ = nullptr;
  std::function<void(int64_t)> training_forward_;
  std::shared_ptr<ProcessGroup> process_group_;
};

using LoopHooksOptions
    [[deprecated("use polyak::LoopHooksSettings; this alias will be removed in 0.3")]] =
        LoopHooksSettings;

class LoopEvaluation;

/// Runs the hooks of a YAML file in your own training loop. The loop reports its progress; the file
/// decides which averages are kept, when checkpoints are written and what is logged. It may also be
/// empty.
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
/// Keys of the file, with the same meaning as in the trainer: `custom_hooks`, `default_hooks` (none
/// unless listed), `plugins`, `work_dir`, and `max_epochs` or `max_iters` if the loop states no
/// length.
///
/// A call at the wrong time throws Error and changes nothing. After an exception, from the loop or
/// from a validation, the raw weights are in the model. All calls must come from the training
/// thread, unless stated otherwise.
class POLYAK_API LoopHooks {
 public:
  /// Reads the file, loads its plugins and builds its hooks. `model` must outlive this.
  /// @throws ConfigError for anything that is wrong in the file or cannot work in this loop,
  ///   PluginError
  LoopHooks(const std::string& file, const ModelRef& model, const LoopHooksSettings& options = {});
  /// The same for a config that was already read.
  static LoopHooks from_config(Node config, const ModelRef& model,
                               const LoopHooksSettings& options = {});
  ~LoopHooks();
  LoopHooks(const LoopHooks&) = delete;
  LoopHooks& operator=(const LoopHooks&) = delete;

  /// Resumes from work_dir's last checkpoint, if there is one: weights, averages, counters, and the
  /// optimizer's state and options if options.optimizer() was set (of LBFGS and a program's own
  /// classes, LibTorch 1.13 restores only the learning rate of the options). Files of the trainer
  /// and of Python's optimizers of the same class qualify too. Call it before the first iteration;
  /// progress() then says where to continue.
  /// @return whether there was one
  /// @throws CheckpointError if it does not fit, and what a hook throws that refuses it. Model,
  ///   optimizer, averages and counters are then unchanged.
  bool resume();

  /// An epoch or an iteration begins. Optional unless a hook acts there: the first call from inside
  /// begins them.
  void before_epoch();
  void before_iter();
  /// The optimizer made a step: at most one per iteration. An iteration without a step, as in
  /// gradient accumulation, updates no average.
  void after_step();
  /// An iteration ended, after its step. `outputs`: losses and other numbers for the log; reading a
  /// number from a GPU waits for the GPU.
  void after_iter(const Scalars& outputs = {});
  /// An epoch ended. A loop that counts only iterations has no epochs and must not call it.
  void after_epoch();
  /// The run ended.
  void after_train();

  /// Runs a validation or a test with the weights that the hooks put into the model (averaged
  /// weights, with an EMAHook); `evaluate` returns the metrics. It is called again for
  /// evaluate_on_origin and for named averages.
  /// @return the metrics, including those that hooks added
  Scalars validate(const std::function<Scalars()>& evaluate);
  Scalars test(const std::function<Scalars()>& evaluate);
  /// The same for code that does not fit into a function: the weights are in the model until the
  /// guard is destroyed. There is no second pass, so it throws at its end for evaluate_on_origin
  /// and named averages.
  [[nodiscard]] LoopEvaluation validation();
  [[nodiscard]] LoopEvaluation testing();

  /// Ends the run early, or returns whether somebody (a hook, another thread) asked for that. The
  /// loop checks it where it can stop. Safe from any thread.
  void request_stop();
  bool stop_requested() const;
  /// From here on, SIGTERM, SIGINT and SIGUSR1 request a stop instead of ending the process (see
  /// StopSignals): the loop sees it with stop_requested(), and after_train() saves a checkpoint to
  /// resume from. after_train(), or the destructor, restores the earlier handlers.
  void stop_on_signals();
  /// The signal that requested the stop, or 0. Valid after after_train() too, so that the program
  /// can choose its exit status (128 + signal is usual).
  int stop_signal() const;
  /// Finished iterations and optimizer steps of the run so far. Safe from any thread.
  int64_t iterations_done() const;
  int64_t steps_done() const;

  /// The progress of the run: `epoch` and `iter` count finished ones, including those before a
  /// resume.
  const Progress& progress() const;
  /// Finished iterations of the current epoch; after a resume, the number of batches to skip.
  int64_t batch() const;
  /// Whether a validation was done at the run's current position. A run that was killed between a
  /// checkpoint and the validation after it continues without that validation, unless the loop
  /// catches up: `if (hooks.resume() && !hooks.validated()) hooks.validate(...)`.
  bool validated() const;
  /// The average of the EMAHook with this `name`, or a null pointer if the config has none.
  std::shared_ptr<AveragedModel> average(const std::string& name = "") const;
  /// What the hooks see.
  Runner& runner();

 private:
  friend class LoopEvaluation;
  class Loop;
  static std::shared_ptr<Loop> make_loop(const std::function<Node()>& load, const ModelRef& model,
                                         const LoopHooksSettings& options);
  explicit LoopHooks(std::shared_ptr<Loop> loop);
  LoopEvaluation evaluate(bool test, const std::function<Scalars()>* again);
  std::shared_ptr<Loop> loop_;
};

/// A validation or test pass of LoopHooks: hooks' weights are in the model until this is destroyed,
/// also when an exception is thrown.
class POLYAK_API LoopEvaluation {
 public:
  LoopEvaluation(LoopEvaluation&&) noexcept;
  ~LoopEvaluation();
  /// Optional: before and after each batch, for hooks that act there.
  void before_iter(int64_t batch);
  void after_iter(int64_t batch);
  /// Ends the pass and passes its metrics to the hooks (best checkpoints, the log).
  /// @return the metrics, including those that hooks added
  Scalars finish(Scalars metrics);

 private:
  friend class LoopHooks;
  struct State;
  explicit LoopEvaluation(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polyak
