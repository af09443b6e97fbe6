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
#include "polyak/runtime/run_loop.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/stop_signals.h"
#include "polyak/trainer/evaluation.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/optimization.h"
#include "polyak/trainer/process.h"
#include "polyak/trainer/run_data.h"
#include "polyak/trainer/run_processes.h"
#include "polyak/trainer/starting_point.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

/// The reference runner: trains and tests a config. It sets the process's threads, determinism and
/// random state, so only one runner can work at a time.
class POLYAK_API TrainRunner : public Runner, private CheckpointSource, private TrainingForward {
 public:
  enum class Purpose { train, test, check };
  /// The result of a validation in the training loop.
  struct Validation {
    bool by_epoch = true;
    int64_t number = 0;  // finished epochs or iterations
    Scalars metrics;
  };

  /// Builds and checks everything before anything is written or trained: every option, data files,
  /// the device, whether work_dir can be written, and whether the checkpoint to load exists and
  /// fits the model.
  /// @param config the keys of TrainConfig; also has `resume`, `load_from` and `work_dir` of the
  /// command line
  /// @param purpose train: locks work_dir during train(), with `resume` from here on; test: ignores
  /// the training keys and `resume`, and loads `load_from` for a test; check: builds as for
  /// training, but does not lock
  /// @throws ConfigError (also if another run uses work_dir), DataError, CheckpointError
  TrainRunner(Node config, const Catalog& catalog, Purpose purpose = Purpose::train);
  ~TrainRunner() override;

  /// Trains to the end, starting from the checkpoint of the config if there is one. Call it once.
  /// @return the metrics of the last validation; empty without validation
  Scalars train();
  /// Evaluates on the test data: after train() the trained model, otherwise the model of the
  /// checkpoint.
  Scalars test();
  /// Evaluates the model as it is now on the test data: no checkpoint is loaded, no hook is called
  /// and no file is written. For weights that the caller puts into the model.
  Scalars measure();

  /// The validations of train() so far, in order.
  const std::vector<Validation>& validations() const { return validations_; }
  /// What training will do, in lines: its length, the model, the memory that both take, the hooks.
  std::vector<std::string> summary();
  /// The config with the values chosen at run time: the seed and work_dir.
  const Node& config() const { return config_; }

  ModelRef model() override { return ModelRef(module_); }
  const Progress& progress() const override { return loop_.progress(); }
  HookList& hooks() override { return hooks_; }
  bool training() const override { return purpose_ != Purpose::test; }
  bool resuming() const override { return start_.resuming; }
  std::string work_dir() const override { return work_dir_; }
  std::string timestamp() const override { return timestamp_; }
  std::shared_ptr<ProcessGroup> process_group() const override { return processes_.group(); }
  bool has_same_buffers() const override { return syncs_batch_norm(); }
  std::optional<double> learning_rate() const override;
  bool reset_optimizer_state() override;
  void log(const std::string& name, double value) override { loop_.logged()[name] = value; }
  const Scalars& logged() const override { return loop_.logged(); }
  Scalars validate(const std::string& suffix) override;
  std::vector<std::string> metric_names() const override;
  TrainingForward* training_forward() override { return data_.train ? this : nullptr; }
  CheckpointSource* checkpoint_source() override { return this; }
  Schedules* schedules() override;
  void request_stop() override { stop_.request(); }
  bool stop_requested() const override;
  bool interrupted() const override { return stop_signal() != 0; }

  /// From here on, SIGTERM, SIGINT and SIGUSR1 end training after the current iteration, or a
  /// validation at its next batch, with a checkpoint (see StopSignals).
  void stop_on_signals() { stop_.heed_signals(); }
  /// The signal that ended training; 0: none. Of several processes, one that any of them received.
  int stop_signal() const;
  /// Whether this process writes the files: the only one, or the first of several.
  bool is_main() const { return processes_.is_main(); }
  /// The checkpoint that `last_checkpoint` names; "" for none.
  std::string last_checkpoint() const;

 private:
  void run_training_forward(int64_t num_samples) override;
  Value make_checkpoint(bool with_optimizer, bool with_schedules) override;
  bool can_resume_from(const Value& checkpoint) const override;

  void read_config();
  void build();
  void compare_processes();
  void set_up_work_dir();
  void lock_folders();
  void set_up_process();
  void set_up_data();
  void set_up_length();
  void set_up_model();
  void set_up_training();

  void start_run();
  void make_files();
  bool load_checkpoint();
  int64_t last_iteration() const;
  void connect_processes();
  bool syncs_batch_norm() const { return options_.sync_bn && processes_.size() > 1; }
  Value environment() const;
  void check_interrupted() const;
  void train_epochs();
  void train_iterations();
  Batch on_device(const Batch& batch) const;
  void train_batch(int64_t epoch, int64_t index);
  Scalars agree(Scalars outputs, double share, bool stepped);
  void share_buffers();
  void validate_if_due();
  Scalars run_evaluation(const Evaluation& evaluation, Hook::Stage stage);
  Scalars evaluate(const Evaluation& evaluation, EvaluationScope* scope);

  Node config_;
  const Catalog& catalog_;
  Purpose purpose_;
  TrainConfig options_;
  TrainLoopOptions loop_options_;
  c10::Device device_{c10::kCPU};
  std::string work_dir_;
  std::string timestamp_;
  std::string name_;  // of the config, for files

  RunLoop loop_{*this};
  StartingPoint start_;
  RunRandomness randomness_;
  RunData data_;
  std::shared_ptr<Algorithm> model_;
  std::shared_ptr<torch::nn::Module> module_;   // the same object
  std::unique_ptr<Optimization> optimization_;  // null for a test
  bool leave_out_last_batch_ = false;           // in additional passes; training never reaches it
  HookList hooks_;
  std::vector<Validation> validations_;
  RunLocks locks_;
  StopRequest stop_;
  RunProcesses processes_;
  RunProcesses::Step agreed_;  // of the last optimizer step, if there are several processes
};

}  // namespace polyak
