// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/model.h"
#include "polyak/core/export.h"

namespace polyak {

/// An average over the runner's model, under the name that its checkpoint entries carry. "" is the
/// first and nameless one.
struct NamedAverage {
  std::string name;
  std::shared_ptr<AveragedModel> average;
  /// Whether max_iters of the average's options is the length of the run, which may be another one
  /// when the run is resumed.
  bool has_length_of_run = false;
};

/// The averages over a runner's model, in the order in which hooks added them.
///
/// A hook may leave an update to the set: it calls post() where the update belongs, and the hook
/// after which nobody else posts calls flush(), which makes all of them in one pass over the
/// model's weights. Everything that reads the set makes what is still due first. Not safe from
/// several threads at once: all calls come from the training thread.
class POLYAK_API AverageSet {
 public:
  using Log = std::function<void(const std::string& name, double value)>;

  /// @param model gives the model whose weights an update takes, when it is made
  /// @param log receives `ema_momentum`, the weight of each update, and `ema_skipped`, the updates
  ///   that skip_nonfinite left out so far; names of averages are added as `_NAME`
  AverageSet(std::function<ModelRef()> model, Log log);
  AverageSet(const AverageSet&) = delete;
  AverageSet& operator=(const AverageSet&) = delete;

  /// Adds an average; one that is there already gets the item's name. Makes what is due first.
  /// @throws Error for a null pointer
  void add(NamedAverage item);
  /// Removes an average, if it is there. Makes what is due first.
  void remove(const AveragedModel& average);
  [[deprecated("use add()")]] void push_back(NamedAverage item) { add(std::move(item)); }

  /// A hook's turn of an iteration: with `due`, an update by the model's present weights belongs
  /// here. It is made at the next flush(), so the caller must see to it that this comes before the
  /// weights change. A second turn before that replaces the first. Allocates nothing.
  /// @throws Error for an average that was not added
  void post(AveragedModel& average, bool due);
  /// Whether an update of this average waits for flush().
  bool is_due(const AveragedModel& average) const;
  /// Makes the updates that are due, in the order of their turns, and logs them. An update that
  /// fails is not tried again.
  /// @throws Error as update_together() does
  void flush() const;

  /// The averages after what was due.
  const std::vector<NamedAverage>& all() const;
  std::vector<NamedAverage>::const_iterator begin() const { return all().begin(); }
  std::vector<NamedAverage>::const_iterator end() const { return items_.end(); }
  /// The average of that name after what was due, or a null pointer.
  std::shared_ptr<AveragedModel> find(const std::string& name) const;
  bool empty() const { return items_.empty(); }
  size_t size() const { return items_.size(); }

 private:
  struct Turn {
    size_t item;  // of items_
    bool due;
  };
  /// The place in items_, or size().
  size_t place_of(const AveragedModel& average) const;

  std::function<ModelRef()> model_;
  Log log_;
  std::vector<NamedAverage> items_;
  // Mutable, since what readers see does not depend on when an update is made. Each has room for
  // all averages, so that no update allocates.
  mutable std::vector<Turn> turns_;  // since the last flush()
  mutable std::vector<Turn> made_;
  mutable std::vector<AveragedModel*> together_;
};

}  // namespace polyak
