// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/hook.h"

namespace polyak {

class KnownModel;

/// What counts as an update of an average.
enum class UpdateCount {
  optimizer_steps,  // each step of the optimizer
  iterations,       // each iteration, with or without a step, as in MMEngine
};
/// The name in configs and checkpoints: "optimizer_steps" or "iterations".
POLYAK_API std::string update_count_name(UpdateCount count);

struct POLYAK_API EMAHookOptions : Options {
  /// The registered name of the average.
  EMAHookOptions& ema_type(std::string value) { return ema_type_ = std::move(value), *this; }
  const std::string& ema_type() const { return ema_type_; }
  /// A key of the average itself: `.average("momentum", 0.004)`.
  EMAHookOptions& average(const std::string& key, Node value) {
    return average_.set(key, std::move(value)), *this;
  }
  /// The keys that were set this way.
  const Node& average() const { return average_; }
  EMAHookOptions& strict_load(bool value) { return strict_load_ = value, *this; }
  bool strict_load() const { return strict_load_; }
  EMAHookOptions& begin_iter(int64_t value) { return begin_iter_ = value, *this; }
  int64_t begin_iter() const { return begin_iter_; }
  EMAHookOptions& begin_epoch(int64_t value) { return begin_epoch_ = value, *this; }
  int64_t begin_epoch() const { return begin_epoch_; }
  EMAHookOptions& evaluate_on_ema(bool value) { return evaluate_on_ema_ = value, *this; }
  bool evaluate_on_ema() const { return evaluate_on_ema_; }
  EMAHookOptions& evaluate_on_origin(bool value) { return evaluate_on_origin_ = value, *this; }
  bool evaluate_on_origin() const { return evaluate_on_origin_; }
  EMAHookOptions& count(UpdateCount value) { return count_ = value, *this; }
  /// "optimizer_steps" or "iterations".
  [[deprecated("use polyak::UpdateCount; the string is removed in 0.3")]] EMAHookOptions& count(
      const std::string& name);
  UpdateCount count() const { return count_; }
  bool counts_iterations() const { return count_ == UpdateCount::iterations; }
  /// Distinguishes several averages over one model; the one without a name is the first.
  EMAHookOptions& name(std::string value) { return name_ = std::move(value), *this; }
  const std::string& name() const { return name_; }
  /// Whether each checkpoint comes with a file that holds this average alone, such as
  /// epoch_3_slow.pth beside epoch_3.pth (`ema` for the one without a name).
  EMAHookOptions& own_file(bool value) { return own_file_ = value, *this; }
  bool own_file() const { return own_file_; }
  /// Several averages in one block, instead of ema_type and keys of an average: a list of mappings,
  /// each with the average's keys, its `type` (ExponentialMovingAverage by default) and its `name`.
  /// One of them may have no name. They update in one pass over the weights.
  EMAHookOptions& averages(Node value) { return averages_ = std::move(value), *this; }
  const Node& averages() const { return averages_; }
  /// The names of the averages that are evaluated, of those of this block; `ema` is the one without
  /// a name. Empty: all.
  EMAHookOptions& evaluate(std::vector<std::string> value) {
    return evaluate_ = std::move(value), *this;
  }
  const std::vector<std::string>& evaluate() const { return evaluate_; }

  void visit(OptionVisitor& visitor) override;
  void validate() const override;
  void keep_places(const Node& block) override;
  /// The average's config: its own keys, and ema_type as `type`.
  Node average_node() const;
  /// The options of a hook for each average of the block; these options alone if it has one.
  /// @throws ConfigError at the key that is wrong
  std::vector<EMAHookOptions> of_each_average() const;
  /// Whether they are of an entry of `averages`.
  bool is_of_a_list() const { return is_of_a_list_; }

 private:
  std::vector<EMAHookOptions> split() const;

  std::string ema_type_ = "ExponentialMovingAverage";
  bool strict_load_ = false;
  int64_t begin_iter_ = 0;
  int64_t begin_epoch_ = 0;
  bool evaluate_on_ema_ = true;
  bool evaluate_on_origin_ = false;
  UpdateCount count_ = UpdateCount::optimizer_steps;
  std::string name_;
  bool own_file_ = false;
  Node averages_;  // null: one
  std::vector<std::string> evaluate_;
  Node average_ = Node::mapping();
  Place type_place_;  // of ema_type
  bool is_of_a_list_ = false;
  const char* type_key_ = "ema_type";  // or "type", in a list of averages
  Node block_;                         // that they were read from; null: none
};

/// Keeps an average of the model's weights during training, evaluates it, and saves it: MMEngine's
/// EMAHook with mmpretrain's evaluate_on_ema and evaluate_on_origin.
///
/// before_run builds the average; after_train_iter updates it once for every optimizer step, from
/// begin_iter or begin_epoch on; validation and test use the averaged weights. A checkpoint's
/// `state_dict` holds the averaged weights, and its `ema_state_dict` the count and the raw weights,
/// so that plain loaders get the better weights and a resumed run continues exactly.
///
/// Several EMAHooks can share a model: one without a name, as above, and the others each with a
/// `name`. A named average is evaluated in a pass of its own (metrics end in `_<name>`), and saved
/// completely under `ema_state_dict.<name>`. EMAHooks that follow each other without a hook between
/// them that does not average update in one pass over the model's weights: each leaves its update
/// to the runner's AverageSet, and the last one flushes it.
class POLYAK_API EMAHook : public Hook {
 public:
  /// Checks everything, including the average's own keys; `averages` must outlive the hook. Options
  /// with several averages make a hook for the first of them, and companions() for the others.
  /// @throws ConfigError
  EMAHook(const EMAHookOptions& options, const Registry<AveragedModel>& averages);

  std::string name() const override;
  bool changes_checkpoints() const override { return true; }
  std::vector<std::shared_ptr<Hook>> companions() const override { return companions_; }
  bool posts_averages() const override { return true; }

  void check_run(Runner& runner) override;
  /// What its average covers; builds it for that.
  std::vector<std::string> describe_run(Runner& runner) override;
  std::map<std::string, std::string> measured_weights() const override;
  void before_run(Runner& runner) override;
  void before_train(Runner& runner) override;
  void before_train_epoch(Runner& runner) override;
  /// Final, because the EMAHook before this one may leave its update to this call.
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) final;
  void before_val_epoch(Runner& runner) override { begin_evaluation(runner); }
  void after_val_epoch(Runner& runner, Scalars& metrics) override {
    end_evaluation(runner, metrics);
  }
  void before_test_epoch(Runner& runner) override { begin_evaluation(runner); }
  void after_test_epoch(Runner& runner, Scalars& metrics) override {
    end_evaluation(runner, metrics);
  }
  void before_save_checkpoint(Runner& runner, Value& checkpoint) override;
  void after_load_checkpoint(Runner& runner, Value& checkpoint) override;

  /// The average; a null pointer before before_run. It does not include an update that waits for
  /// the next EMAHook: read runner.averages() for that.
  const std::shared_ptr<AveragedModel>& average() const { return average_; }

 private:
  void add_average(Runner& runner, int64_t length);
  std::shared_ptr<AveragedModel> build_average(const AveragedModel::Context& context) const;
  AveragedModel::Context context_of(Runner& runner) const;
  bool started(const Runner& runner) const;
  int64_t updates_of(const Progress& progress, int64_t length) const;
  std::string text_of_horizon(const AveragedModel& average,
                              const AveragedModel::Context& context) const;
  bool is_first() const { return options_.name().empty(); }
  /// The average after all updates that are due.
  AveragedModel& flushed(Runner& runner) const;
  void begin_evaluation(Runner& runner);
  void end_evaluation(Runner& runner, Scalars& metrics);
  void load(Runner& runner, const Value& checkpoint, const std::string& name);
  void report(const LoadReport& report, const std::string& what) const;

  std::vector<std::shared_ptr<Hook>> companions_;
  EMAHookOptions options_;
  Node average_node_;
  Registry<AveragedModel>::Maker make_average_;
  std::shared_ptr<AveragedModel> average_;
  std::shared_ptr<const KnownModel> model_;
  int64_t steps_seen_ = 0;
  bool start_from_average_ = false;
  bool at_once_ = false;       // no update waits for the next hook
  bool is_described_ = false;  // so the log has the horizon already
  SwapGuard guard_;
};

}  // namespace polyak
