// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/model.h"
#include "polyak/core/export.h"

namespace polyak {

/// An average of the runner's model and its name in checkpoints. "" is the first one, which has no
/// name.
struct NamedAverage {
  std::string name;                        // in checkpoints
  std::shared_ptr<AveragedModel> average;  // never null in a set
  /// Whether max_iters of the average's options is the length of the run, which a resumed run may
  /// change.
  bool has_length_of_run = false;
  /// Whether checkpoints come with a file of their own for this average.
  bool own_file = false;
  int64_t updates = 0;  // that the run will make from its start; 0: unknown
  /// Whether the run evaluates it; PreciseBNHook leaves the statistics of others alone.
  bool is_measured = true;
};

/// The averages of a runner's model, in the order in which hooks added them.
///
/// Hooks may leave updates to the set: post() records that an update is due, and flush() makes all
/// updates that are due in one pass over the model's weights. Every function that reads the
/// averages calls flush() first. Not thread-safe: call it from the training thread only.
class POLYAK_API AverageSet {
 public:
  /// Receives a value of the current iteration under its name.
  using Log = std::function<void(const std::string& name, double value)>;

  /// @param model returns the model; called by flush()
  /// @param log receives `ema_momentum`, the weight of each update, `ema_time_ms`, the milliseconds
  ///   of all updates that are made together, and `ema_skipped`, the number of updates that
  ///   skip_nonfinite has skipped so far; but for the time, a named average appends `_NAME`
  /// @param reset_optimizer drops the optimizer's state, after a write_back that asks for it;
  ///   returns whether there is one
  AverageSet(std::function<ModelRef()> model, Log log,
             std::function<bool()> reset_optimizer = nullptr);

  AverageSet(const AverageSet&) = delete;
  AverageSet& operator=(const AverageSet&) = delete;

  /// Adds an average, or replaces its entry if it is already in the set. Calls flush() first.
  /// @throws Error for a null pointer
  void add(NamedAverage item);
  /// Removes an average if it is in the set. Calls flush() first.
  void remove(const AveragedModel& average);
  [[deprecated("use add()")]] void push_back(NamedAverage item) { add(std::move(item)); }

  /// Takes an average's turn in an iteration. If `due`, the next flush() updates it; the caller
  /// ensures that flush() is called before the weights change. A second turn before that replaces
  /// the first. Does not allocate.
  /// @throws Error for an average that was not added
  void post(AveragedModel& average, bool due);
  /// Whether an update of this average waits for flush().
  bool is_due(const AveragedModel& average) const;
  /// Makes the updates that are due, in the order of their turns, and logs them. A failed update is
  /// not retried.
  /// @throws Error as update_together() does
  void flush() const;

  /// The averages, after flush().
  const std::vector<NamedAverage>& all() const;
  std::vector<NamedAverage>::const_iterator begin() const { return all().begin(); }
  std::vector<NamedAverage>::const_iterator end() const { return items_.end(); }
  /// The average of that name, after flush(), or a null pointer.
  std::shared_ptr<AveragedModel> find(const std::string& name) const;
  /// Looks for a NaN or an infinity in the averages, after flush(), and warns of the first tensor
  /// that holds one, once for each average. Reads every average once, so call it now and then.
  /// @param iterations finished so far, for the warning
  void warn_of_nonfinite(int64_t iterations) const;
  bool empty() const { return items_.empty(); }
  size_t size() const { return items_.size(); }

 private:
  struct Turn {
    size_t item;  // of items_
    bool due;
  };
  /// The index in items_, or size().
  size_t place_of(const AveragedModel& average) const;

  std::function<ModelRef()> model_;
  Log log_;
  std::function<bool()> reset_optimizer_;
  mutable bool warned_of_reset_ = false;
  std::vector<NamedAverage> items_;
  // Mutable, since readers see the same whenever the updates are made. add() reserves room for all
  // averages, so that no update allocates.
  mutable std::vector<Turn> turns_;  // since the last flush()
  mutable std::vector<Turn> made_;
  mutable std::vector<AveragedModel*> together_;
  mutable std::vector<const AveragedModel*> warned_;  // of numbers that are not finite
};

}  // namespace polyak
