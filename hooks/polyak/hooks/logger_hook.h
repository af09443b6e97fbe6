// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/config/node.h"
#include "polyak/runtime/hook.h"
#include "polyak/runtime/vis_backend.h"

namespace polyak {

class ProgressBar;

struct POLYAK_API LoggerHookOptions : Options {
  LoggerHookOptions& interval(int64_t value) { return interval_ = value, *this; }
  int64_t interval() const { return interval_; }
  LoggerHookOptions& window_size(int64_t value) { return window_size_ = value, *this; }
  int64_t window_size() const { return window_size_; }
  LoggerHookOptions& log_metric_by_epoch(bool value) { return log_metric_by_epoch_ = value, *this; }
  bool log_metric_by_epoch() const { return log_metric_by_epoch_; }
  LoggerHookOptions& ignore_last(bool value) { return ignore_last_ = value, *this; }
  bool ignore_last() const { return ignore_last_; }
  LoggerHookOptions& progress_bar(bool value) { return progress_bar_ = value, *this; }
  bool progress_bar() const { return progress_bar_; }
  /// Whether each line says how far each average is from the weights: the norm of the difference of
  /// all parameters, divided by that of the weights.
  LoggerHookOptions& ema_distance(bool value) { return ema_distance_ = value, *this; }
  bool ema_distance() const { return ema_distance_; }

  /// Blocks of VisBackends; null: LocalVisBackend.
  LoggerHookOptions& vis_backends(Node value) { return vis_backends_ = std::move(value), *this; }
  const Node& vis_backends() const { return vis_backends_; }

  void visit(OptionVisitor& visitor) override;

 private:
  int64_t interval_ = 10;
  int64_t window_size_ = 10;
  bool ignore_last_ = true;
  bool log_metric_by_epoch_ = true;
  bool progress_bar_ = true;
  bool ema_distance_ = false;
  Node vis_backends_;
};

/// Writes the same lines as MMEngine: one every `interval` iterations and one for each validation
/// or test, to the log and to the vis backends: by default, as JSON lines, to
/// WORK_DIR/TIMESTAMP/vis_data/scalars.json. `eta`
/// is computed from the hook's own times of training iterations. It is omitted if the length of the
/// run is unknown and before the first iteration. scalars.json also has the horizon of each
/// average, `ema_horizon`: the optimizer steps that it follows by its current weight; and
/// `ema_time_ms`: the milliseconds in which all averages were updated, those of launching it if
/// they are on a GPU. On a terminal, a bar shows the epoch's progress.
class POLYAK_API LoggerHook : public Hook {
 public:
  /// @param backends those of the options; empty: LocalVisBackend
  /// @throws ConfigError
  explicit LoggerHook(LoggerHookOptions options = {},
                      std::vector<std::shared_ptr<VisBackend>> backends = {});
  ~LoggerHook() override;

  std::string name() const override { return "LoggerHook"; }
  int priority() const override { return kBelowNormal; }

  void before_train(Runner& runner) override;
  void before_train_epoch(Runner& runner) override;
  void before_train_iter(Runner& runner, int64_t batch) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;
  void after_train_epoch(Runner& runner) override;
  void after_train(Runner& runner) override;
  void before_save_checkpoint(Runner& runner, Value& checkpoint) override;
  void after_load_checkpoint(Runner& runner, Value& checkpoint) override;
  void before_val_epoch(Runner& runner) override;
  void after_val_iter(Runner& runner, int64_t batch) override;
  void after_val_epoch(Runner& runner, Scalars& metrics) override;
  void before_test_epoch(Runner& runner) override;
  void after_test_iter(Runner& runner, int64_t batch) override;
  void after_test_epoch(Runner& runner, Scalars& metrics) override;

 private:
  void remember(const Scalars& values);
  double smoothed(const std::string& name) const;
  std::string eta(const Runner& runner) const;
  void add_distances(Runner& runner, Scalars& values) const;
  void begin_evaluation();
  void end_evaluation();
  void log_evaluation(Runner& runner, const char* stage, const Scalars& metrics);
  void take_over_scalars(Runner& runner);
  void write_pending(const Runner& runner);
  void open_backends(const Runner& runner);
  void write_scalars(const Runner& runner, const Scalars& values, int64_t step);
  void draw_bar(const Runner& runner, int64_t batch);

  LoggerHookOptions options_;
  std::map<std::string, std::deque<double>> windows_;
  using Clock = std::chrono::steady_clock;
  std::optional<Clock::time_point> last_;  // begin of the current iteration, if known
  Clock::time_point evaluation_;           // begin of the last evaluation
  double seconds_ = 0;                     // total time of the timed iterations of this process
  int64_t timed_ = 0;                      // their number
  std::unique_ptr<ProgressBar> bar_;
  std::string last_metric_;  // "accuracy 87.5", of the last validation
  struct Line {
    Scalars values;
    int64_t step;
  };
  std::string earlier_;        // file with the lines of the resumed run, relative to work_dir
  std::vector<Line> pending_;  // its lines of a validation that may be repeated
  int64_t pending_step_ = -1;
  std::string lines_name_;  // the same of this run
  bool is_open_ = false;
  std::vector<std::shared_ptr<VisBackend>> backends_;
};

}  // namespace polyak
