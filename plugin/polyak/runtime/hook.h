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

/// When hooks of one point run: smaller is earlier, equal priorities run in the order of
/// registration.
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
/// "ABOVE_NORMAL", or the number where it has no name.
POLYAK_API std::string priority_name(int priority);

/// What a training loop calls, with MMEngine's points in MMEngine's order. Override what you want;
/// the rest is empty. The *_epoch and *_iter points call before_epoch, after_epoch, before_iter and
/// after_iter unless they are overridden. All calls come from the training thread.
class POLYAK_API Hook {
 public:
  static constexpr const char* kKind = "hook";  // for messages and `polyak list`
  /// What a hook's maker receives beside its options.
  struct Context {
    const Catalog* catalog = nullptr;  // for what the options name
  };
  /// Which loop an epoch or an iteration belongs to.
  enum class Stage { train, val, test };

  virtual ~Hook();
  /// The class's own priority; a config's `priority` goes before it.
  virtual int priority() const { return kNormal; }
  /// The registered name, for messages.
  virtual std::string name() const = 0;

  /// Refuses by ConfigError what cannot work in this run. A runner calls it once all hooks are
  /// there, before it writes or trains anything. Not one of the 22 points.
  virtual void check_run(Runner&) {}
  /// Which weights the metrics of a validation measure, by what this hook appends to their names:
  /// {"", "averaged"}, {"_origin", "raw"}, {"_slow", "slow"} (the average of that name). Metrics
  /// that no hook states measure the raw weights.
  virtual std::map<std::string, std::string> measured_weights() const { return {}; }

  /// Whether what this hook does after an iteration or an epoch is part of a checkpoint: averages,
  /// schedules, statistics. A hook that writes checkpoints must run after all of these.
  virtual bool changes_checkpoints() const { return false; }

  /// Around the whole run.
  virtual void before_run(Runner&) {}
  virtual void after_run(Runner&) {}
  /// Around all epochs of training.
  virtual void before_train(Runner&) {}
  virtual void after_train(Runner&) {}
  /// Around one epoch of training.
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

  /// Around a validation.
  virtual void before_val(Runner&) {}
  virtual void after_val(Runner&) {}
  /// Before a validation's pass over the data.
  virtual void before_val_epoch(Runner& runner) { before_epoch(runner, Stage::val); }
  /// `metrics` is empty when the pass was broken off by an exception. A hook may add to it; hooks
  /// of a later priority see what was added.
  virtual void after_val_epoch(Runner& runner, Scalars& /*metrics*/) {
    after_epoch(runner, Stage::val);
  }
  /// Around one batch of a validation.
  virtual void before_val_iter(Runner& runner, int64_t batch) {
    before_iter(runner, Stage::val, batch);
  }
  virtual void after_val_iter(Runner& runner, int64_t batch) {
    after_iter(runner, Stage::val, batch);
  }

  /// Around a test, one of its passes, one of its batches, as in a validation.
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
  /// Around every epoch and iteration of any stage, unless the points of that stage are overridden.
  virtual void before_epoch(Runner&, Stage) {}
  virtual void after_epoch(Runner&, Stage) {}
  virtual void before_iter(Runner&, Stage, int64_t /*batch*/) {}
  virtual void after_iter(Runner&, Stage, int64_t /*batch*/) {}

  /// n <= 0 is never; all true when the unit that just ran is a multiple, counted from 1.
  static bool every_n_epochs(const Runner& runner, int64_t n, int64_t start = 0);
  static bool every_n_train_iters(const Runner& runner, int64_t n, int64_t start = 0);
  static bool every_n_inner_iters(int64_t batch, int64_t n);
  static bool end_of_epoch(const Runner& runner, int64_t batch);
  static bool is_last_train_epoch(const Runner& runner);
  static bool is_last_train_iter(const Runner& runner);
};

}  // namespace polyak
