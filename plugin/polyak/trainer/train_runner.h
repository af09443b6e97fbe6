// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/config/node.h"
#include "polyak/core/export.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_lock.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/stop_signals.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/evaluation.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/optim_wrapper.h"
#include "polyak/trainer/param_scheduler.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

/// The reference runner: trains and tests what a config describes. Sets the process's threads,
/// determinism and random state, so one runner works at a time.
class POLYAK_API TrainRunner : public Runner {
 public:
  enum class Purpose { train, test, check };
  /// What one validation of the training loop found.
  struct Validation {
    bool by_epoch = true;
    int64_t number = 0;  // epochs or iterations that were done
    Scalars metrics;
  };

  /// Builds and checks everything before anything is written or trained: every option, data files,
  /// the device, that work_dir can be written, that the checkpoint to load exists and fits the
  /// model.
  /// @param config the keys of TrainConfig; `resume`, `load_from` and `work_dir` of a command line
  /// are
  ///   set in it
  /// @param purpose train: keeps other runs out of work_dir during train(), with `resume` from here
  /// on; test: leaves the training keys and `resume` unread, and loads `load_from` for a test;
  /// check: builds as for training, and nothing else
  /// @throws ConfigError (also when another run uses work_dir), DataError, CheckpointError
  TrainRunner(Node config, const Catalog& catalog, Purpose purpose = Purpose::train);
  ~TrainRunner() override;

  /// Trains to the end, from the checkpoint of the config if there is one. Call it once.
  /// @return metrics of the last validation; empty without one
  Scalars train();
  /// Evaluates over the test data: after train() the model as training left it, else the one that
  /// the checkpoint holds.
  Scalars test();

  /// The validations of train() so far, in order.
  const std::vector<Validation>& validations() const { return validations_; }
  /// The config with what was drawn or found: the seed, work_dir.
  const Node& config() const { return config_; }

  Model model() override { return Model(module_); }
  const Progress& progress() const override { return progress_; }
  HookList& hooks() override { return hooks_; }
  bool training() const override { return purpose_ != Purpose::test; }
  bool resuming() const override { return resuming_; }
  std::string work_dir() const override { return work_dir_; }
  std::string timestamp() const override { return timestamp_; }
  std::optional<double> learning_rate() const override;
  void log(const std::string& name, double value) override { logged_[name] = value; }
  const Scalars& logged() const override { return logged_; }
  Scalars validate(const std::string& suffix) override;
  std::vector<std::string> metric_names() const override;
  void run_training_forward(int64_t num_samples) override;
  Value make_checkpoint(bool with_optimizer, bool with_schedulers) override;
  void step_schedulers(bool by_epoch) override;
  bool can_resume_from(const Value& checkpoint) const override;
  void request_stop() override { stop_ = true; }
  bool stop_requested() const override { return stop_ || interrupted(); }
  bool interrupted() const override { return stop_signal() != 0; }

  /// From here on SIGTERM, SIGINT and SIGUSR1 end training after the present iteration, a
  /// validation at its next batch, with a checkpoint (StopSignals says how).
  void stop_on_signals();
  /// The signal that did; 0: none.
  int stop_signal() const { return signals_ ? StopSignals::received() : 0; }
  /// The checkpoint that `last_checkpoint` names; "" for none.
  std::string last_checkpoint() const;

 private:
  void set_up_process();
  void set_up_work_dir();
  void lock_folders();
  void read_checkpoint();
  void set_up_data();
  void set_up_lengths();
  void set_up_model();
  void set_up_training();
  Evaluation make_evaluation(const Node& loader, const Node& evaluator, const Node& loop,
                             const char* stage);
  void number_classes(DataLoader& loader);
  std::vector<std::string> find_training_classes() const;
  void check_last_batch();

  void start_run();
  void check_place(const Value& checkpoint) const;
  void load_checkpoint();
  void restore_progress(const Value& checkpoint);
  void restore_gradients(const Value& extra);
  void restore_random_state();
  void check_interrupted() const;
  void replay_schedules(const Value& checkpoint);
  bool resumes_with_config() const { return options_.resume_options == "config"; }
  void train_epochs();
  void train_iterations();
  Batch on_device(const Batch& batch) const;
  void train_batch(int64_t batch_index, int64_t epoch, int64_t index);
  void validate_if_due();
  Scalars run_evaluation(Evaluation& evaluation, Hook::Stage stage);
  Scalars evaluate(const Evaluation& evaluation, EvaluationScope* scope);

  Node config_;
  const Catalog& catalog_;
  Purpose purpose_;
  TrainConfig options_;
  TrainLoopOptions loop_;
  uint64_t seed_ = 0;
  c10::Device device_{c10::kCPU};
  std::string work_dir_;
  std::string timestamp_;
  std::string name_;  // of the config, for files

  std::shared_ptr<DataLoader> train_loader_;
  bool leave_out_last_batch_ = false;  // of passes beside training, which does not come to it
  std::vector<std::string> classes_;   // that the model learns or has learned; empty: without names
  std::optional<Evaluation> val_;
  std::optional<Evaluation> test_;
  Evaluation* running_ = nullptr;  // the evaluation that hooks are called in

  std::shared_ptr<Algorithm> model_;
  std::shared_ptr<torch::nn::Module> module_;  // the same object
  std::unique_ptr<OptimWrapper> optim_;
  std::vector<std::shared_ptr<ParamScheduler>> schedulers_;
  HookList hooks_;

  std::string checkpoint_file_;      // what the config asks for; empty: nothing
  std::optional<Value> checkpoint_;  // read, not loaded yet
  bool resuming_ = false;
  bool inside_epoch_ = true;     // iter and epoch of the checkpoint tell the place in its epoch
  bool validation_due_ = false;  // the checkpoint stands where a validation may be missing
  at::Tensor cpu_random_state_;  // of the run that goes on; undefined otherwise
  at::Tensor device_random_state_;

  Progress progress_;
  Scalars logged_;
  std::vector<Validation> validations_;
  RunLocks locks_;
  std::optional<StopSignals> signals_;
  bool started_ = false;  // before_run was called
  bool stop_ = false;
  int64_t iters_in_hooks_ = 0;   // 1 while after_train_iter runs: the counter does not count it yet
  int64_t epochs_in_hooks_ = 0;  // the same of after_train_epoch
};

}  // namespace polyak
