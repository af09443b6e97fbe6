// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/runtime/progress.h"

namespace polyak {

class Catalog;
class Runner;

/// The order of hooks at one point: a smaller priority is earlier, equal priorities run in the
/// order of registration.
enum Priority : int {
  kHighest = 0,
  kVeryHigh = 10,
  kHigh = 30,
  kAboveNormal = 40,
  kNormal = 50,
  kBelowNormal = 60,
  kLow = 70,
  kVeryLow = 90,
  kLowest = 100,
};

/// Reads a priority: one of MMEngine's names in any case ("ABOVE_NORMAL"), or an integer from 0 to
/// 100.
POLYAK_API int parse_priority(const Node& node);
/// "ABOVE_NORMAL", or the number if it has no name.
POLYAK_API std::string priority_name(int priority);

/// What every hook's block takes beside the hook's own keys.
struct POLYAK_API HookKeys : Options {
  Node priority;  // null: the hook's own
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// The points that a training loop calls: MMEngine's points in MMEngine's order. Override what you
/// need; the rest does nothing. The *_epoch and *_iter points call before_epoch, after_epoch,
/// before_iter and after_iter unless they are overridden. All calls come from the training thread.
class POLYAK_API Hook {
 public:
  static constexpr const char* kKind = "hook";  // for messages and `polyak list`
  using CommonKeys = HookKeys;                  ///< Of every hook's block.
  /// What the factory of a hook receives in addition to its options.
  struct Context {
    const Catalog* catalog = nullptr;  // for objects that the options name
  };
  /// Which loop an epoch or an iteration belongs to.
  enum class Stage { train, val, test };

  virtual ~Hook();
  /// Further hooks that one block of a config asks for; HookList::add() puts them right behind this
  /// one, with its priority.
  virtual std::vector<std::shared_ptr<Hook>> companions() const { return {}; }
  /// The class's own priority; `priority` in a config overrides it.
  virtual int priority() const { return kNormal; }
  /// The registered name, for messages.
  virtual std::string name() const = 0;

  /// Throws ConfigError for settings that cannot work in this run. A runner calls it once all hooks
  /// exist, before it writes or trains anything. Not one of the 22 points.
  virtual void check_run(Runner&) {}
  /// Lines for `polyak check` about what this hook would do in this run, which does not take place.
  /// @throws ConfigError for settings that cannot work in it
  virtual std::vector<std::string> describe_run(Runner&) { return {}; }
  /// Which weights a validation's metrics measure, by the suffix that this hook adds to their
  /// names: {"", "averaged"}, {"_origin", "raw"}, {"_slow", "slow"} (the average of that name).
  /// Metrics that no hook lists measure the raw weights.
  virtual std::map<std::string, std::string> measured_weights() const { return {}; }

  /// Whether a checkpoint contains what this hook does after an iteration or an epoch: averages,
  /// schedules, statistics. A hook that writes checkpoints must run after all of these.
  virtual bool changes_checkpoints() const { return false; }
  /// Whether after_train_iter leaves updates to the runner's AverageSet. If the next hook does so
  /// too, the updates wait for it, so that all are made in one pass; see
  /// HookList::next_posts_averages().
  virtual bool posts_averages() const { return false; }

  /// Before and after the whole run.
  virtual void before_run(Runner&) {}
  virtual void after_run(Runner&) {}
  /// Before and after all epochs of training.
  virtual void before_train(Runner&) {}
  virtual void after_train(Runner&) {}
  /// Before and after one epoch of training.
  virtual void before_train_epoch(Runner& runner) { before_epoch(runner, Stage::train); }
  virtual void after_train_epoch(Runner& runner) { after_epoch(runner, Stage::train); }
  /// Before batch `batch` of the epoch, counted from 0.
  virtual void before_train_iter(Runner& runner, int64_t batch) {
    before_iter(runner, Stage::train, batch);
  }
  /// `outputs`: the losses of the iteration, `loss` their total.
  virtual void after_train_iter(Runner& runner, int64_t batch, const Scalars& /*outputs*/) {
    after_iter(runner, Stage::train, batch);
  }

  /// Before and after a validation.
  virtual void before_val(Runner&) {}
  virtual void after_val(Runner&) {}
  /// Before a validation's pass over the data.
  virtual void before_val_epoch(Runner& runner) { before_epoch(runner, Stage::val); }
  /// `metrics` is empty if an exception interrupted the pass. A hook may add to it; later hooks see
  /// what was added.
  virtual void after_val_epoch(Runner& runner, Scalars& /*metrics*/) {
    after_epoch(runner, Stage::val);
  }
  /// Before and after one batch of a validation.
  virtual void before_val_iter(Runner& runner, int64_t batch) {
    before_iter(runner, Stage::val, batch);
  }
  virtual void after_val_iter(Runner& runner, int64_t batch) {
    after_iter(runner, Stage::val, batch);
  }

  /// Before and after a test, its passes and its batches, as in a validation.
  virtual void before_test(Runner&) {}
  virtual void after_test(Runner&) {}
  virtual void before_test_epoch(Runner& runner) { before_epoch(runner, Stage::test); }
  virtual void after_test_epoch(Runner& runner, Scalars& /*metrics*/) {
    after_epoch(runner, Stage::test);
  }
  virtual void before_test_iter(Runner& runner, int64_t batch) {
    before_iter(runner, Stage::test, batch);
  }
  virtual void after_test_iter(Runner& runner, int64_t batch) {
    after_iter(runner, Stage::test, batch);
  }

  /// `checkpoint` is a dict that holds meta, state_dict and the rest; a hook may add and exchange
  /// entries.
  virtual void before_save_checkpoint(Runner&, Value& /*checkpoint*/) {}
  /// Runs before the runner copies `checkpoint["state_dict"]` into the model.
  virtual void after_load_checkpoint(Runner&, Value& /*checkpoint*/) {}

 protected:
  /// Before and after every epoch and iteration of any stage, unless that stage's points are
  /// overridden.
  virtual void before_epoch(Runner&, Stage) {}
  virtual void after_epoch(Runner&, Stage) {}
  virtual void before_iter(Runner&, Stage, int64_t /*batch*/) {}
  virtual void after_iter(Runner&, Stage, int64_t /*batch*/) {}

  /// Whether the unit that just ran is a multiple of n, counted from 1; never for n <= 0.
  static bool every_n_epochs(const Runner& runner, int64_t n, int64_t start = 0);
  static bool every_n_train_iters(const Runner& runner, int64_t n, int64_t start = 0);
  static bool every_n_inner_iters(int64_t batch, int64_t n);
  static bool end_of_epoch(const Runner& runner, int64_t batch);
  static bool is_last_train_epoch(const Runner& runner);
  static bool is_last_train_iter(const Runner& runner);
};

}  // namespace polyak
