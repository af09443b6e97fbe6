// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/runtime/hook.h"

namespace polyak {

class BackgroundWriter;
struct PublishOptions;

struct POLYAK_API CheckpointHookOptions : Options {
  CheckpointHookOptions& interval(int64_t value) { return interval_ = value, *this; }
  int64_t interval() const { return interval_; }
  CheckpointHookOptions& by_epoch(std::optional<bool> value) { return by_epoch_ = value, *this; }
  std::optional<bool> by_epoch() const { return by_epoch_; }
  CheckpointHookOptions& save_optimizer(bool value) { return save_optimizer_ = value, *this; }
  bool save_optimizer() const { return save_optimizer_; }
  CheckpointHookOptions& save_param_scheduler(bool value) {
    return save_param_scheduler_ = value, *this;
  }
  bool save_param_scheduler() const { return save_param_scheduler_; }
  CheckpointHookOptions& out_dir(std::optional<std::string> value) {
    return out_dir_ = std::move(value), *this;
  }
  const std::optional<std::string>& out_dir() const { return out_dir_; }
  CheckpointHookOptions& max_keep_ckpts(int64_t value) { return max_keep_ckpts_ = value, *this; }
  int64_t max_keep_ckpts() const { return max_keep_ckpts_; }
  CheckpointHookOptions& save_last(bool value) { return save_last_ = value, *this; }
  bool save_last() const { return save_last_; }
  CheckpointHookOptions& save_begin(int64_t value) { return save_begin_ = value, *this; }
  int64_t save_begin() const { return save_begin_; }
  CheckpointHookOptions& save_best(std::vector<std::string> value) {
    return save_best_ = std::move(value), *this;
  }
  const std::vector<std::string>& save_best() const { return save_best_; }
  CheckpointHookOptions& rule(std::vector<std::string> value) {
    return rule_ = std::move(value), *this;
  }
  const std::vector<std::string>& rule() const { return rule_; }
  CheckpointHookOptions& on_save_error(std::string value) {
    return on_save_error_ = std::move(value), *this;
  }
  const std::string& on_save_error() const { return on_save_error_; }
  CheckpointHookOptions& async_save(bool value) { return async_save_ = value, *this; }
  bool async_save() const { return async_save_; }
  /// A mapping of PublishOptions; null: no files.
  CheckpointHookOptions& published(Node value) { return published_ = std::move(value), *this; }
  const Node& published() const { return published_; }
  /// Whether larger values of a metric are better, by `rule` or by the metric's name.
  bool larger_is_better(const std::string& metric) const;

  void visit(OptionVisitor& visitor) override;
  void validate() const override;

 private:
  int64_t interval_ = -1;
  std::optional<bool> by_epoch_;
  bool save_optimizer_ = true;
  bool save_param_scheduler_ = true;
  std::optional<std::string> out_dir_;
  int64_t max_keep_ckpts_ = -1;
  bool save_last_ = true;
  int64_t save_begin_ = 0;
  std::vector<std::string> save_best_;
  std::vector<std::string> rule_;
  std::string on_save_error_ = "stop";
  bool async_save_ = false;
  Node published_;
};

/// Writes checkpoints: `epoch_N.pth` or `iter_N.pth` every `interval`, and
/// `best_<metric>_epoch_N.pth` if a validation is better than all before. Keeps max_keep_ckpts
/// regular files; best ones do not count. Runs after EMAHook.
///
/// `last_checkpoint` in work_dir names the newest file that a run can be resumed from. If training
/// stops early, an additional file is written for that, and removed after the next regular one.
/// The `state_dict` of a best file holds the weights that were measured (Hook::measured_weights).
///
/// With `async_save`, a thread writes each file from a copy of the values, and training goes on;
/// the next file waits for it. With `published`, best files and the last one are also written for
/// deployment, into the folder `published`.
///
/// Of several processes, only the first writes; all of them record the same.
///
/// A run may have several of these hooks. The record of each is in `checkpoint_hooks` of the
/// runner's run_info, by folder and pattern of file names. A file is removed when no hook keeps it.
class POLYAK_API CheckpointHook : public Hook {
 public:
  /// @throws ConfigError
  explicit CheckpointHook(CheckpointHookOptions options = {});
  /// Waits for a file that is being written.
  ~CheckpointHook() override;

  std::string name() const override { return "CheckpointHook"; }
  int priority() const override { return kVeryLow; }

  void check_run(Runner& runner) override;
  void before_run(Runner& runner) override;
  void before_train(Runner& runner) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;
  void after_train_epoch(Runner& runner) override;
  void after_train(Runner& runner) override;
  void after_val_epoch(Runner& runner, Scalars& metrics) override;
  void after_val(Runner& runner) override;

 private:
  enum class Kind { regular, stop, best };

  bool by_epoch(const Runner& runner) const;
  std::string folder(const Runner& runner) const;
  std::string pattern(const Runner& runner) const;
  std::string regular_file(const Runner& runner, int64_t number) const;
  std::string path_of(const std::string& file) const { return folder_ + "/" + file; }

  /// The hooks of this kind in the order of their calls; only `self` if the host has no list.
  static std::vector<CheckpointHook*> peers_of(Runner& runner, CheckpointHook* self);
  std::string record_key(Runner& runner);
  Value& record(Runner& runner);
  void take_first_version(Runner& runner);
  void check_order(Runner& runner);
  bool ranks_several(Runner& runner);
  bool ranks_first(Runner& runner, const std::string& metric);
  bool is_named(const Runner& runner, const std::string& file) const;
  bool keeps(Runner& runner, const std::string& path);

  /// `iters`: finished iterations so far.
  void save_regular(Runner& runner, int64_t number, int64_t iters);
  void save_for_stop(Runner& runner);
  std::vector<CheckpointHook*> writers_at_stop(Runner& runner);
  void save_if_best(Runner& runner, const std::string& metric, double value,
                    const std::string& weights);
  std::string weights_of(Runner& runner, const std::string& metric, const Scalars& metrics) const;
  struct Save;
  Value assemble(Runner& runner, Kind kind, const std::string& weights);
  void write(Runner& runner, const Save& save);
  void write_files(const Value& checkpoint, const std::string& file, bool publish_it) const;
  void agree_on(Runner& runner, std::string error) const;
  void finish();
  void finish_all(Runner& runner);
  void commit(Runner& runner, const Save& save, bool can_resume);
  void handle_error(const CheckpointError& error) const;
  bool is_last(const Runner& runner) const;
  std::string pointer_folder(const Runner& runner) const;
  void move_pointer(const Runner& runner, const std::string& file) const;
  void remove_files(Runner& runner, const char* list);
  void remove_stop(Runner& runner);

  CheckpointHookOptions options_;
  std::unique_ptr<PublishOptions> published_;
  std::vector<std::string> own_files_;  // averages that have files of their own
  std::string folder_;
  std::unique_ptr<BackgroundWriter> writer_;
  std::function<void()> pending_;  // waits for the writer, and does what follows
  int64_t saved_at_ = -1;          // finished iterations at the newest save; -1: none yet
  bool is_newest_ = false;         // last_checkpoint names this hook's newest file
  bool measured_ = false;          // the validation that is ending was not interrupted
};

}  // namespace polyak
