// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/average_set.h"

#include <algorithm>
#include <chrono>

#include "polyak/core/log.h"

namespace polyak {
namespace {

std::string scalar(const char* what, const NamedAverage& item) {
  return item.name.empty() ? what : fmt::format("{}_{}", what, item.name);
}

std::string description(const NamedAverage& item) {
  return item.name.empty() ? "the average" : fmt::format("the average '{}'", item.name);
}

}  // namespace

AverageSet::AverageSet(std::function<ModelRef()> model, Log log,
                       std::function<bool()> reset_optimizer)
    : model_(std::move(model)),
      log_(std::move(log)),
      reset_optimizer_(std::move(reset_optimizer)) {}

size_t AverageSet::place_of(const AveragedModel& average) const {
  size_t place = 0;
  while (place < items_.size() && items_[place].average.get() != &average) ++place;
  return place;
}

void AverageSet::add(NamedAverage item) {
  if (!item.average) fail<Error>("AverageSet: the average '{}' is a null pointer", item.name);
  flush();
  const size_t place = place_of(*item.average);
  if (place < items_.size()) {
    items_[place] = std::move(item);
    return;
  }
  items_.push_back(std::move(item));
  turns_.reserve(items_.size());
  made_.reserve(items_.size());
  together_.reserve(items_.size());
}

void AverageSet::remove(const AveragedModel& average) {
  flush();
  const size_t place = place_of(average);
  if (place < items_.size()) items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(place));
  warned_.erase(std::remove(warned_.begin(), warned_.end(), &average), warned_.end());
}

void AverageSet::post(AveragedModel& average, bool due) {
  const size_t item = place_of(average);
  if (item == items_.size()) {
    fail<Error>("AverageSet: {} was not added, so its update cannot be posted",
                average.rule_name());
  }
  const auto earlier = std::find_if(turns_.begin(), turns_.end(),
                                    [&](const Turn& turn) { return turn.item == item; });
  if (earlier != turns_.end()) turns_.erase(earlier);
  turns_.push_back({item, due});
}

bool AverageSet::is_due(const AveragedModel& average) const {
  return std::any_of(turns_.begin(), turns_.end(), [&](const Turn& turn) {
    return turn.due && items_[turn.item].average.get() == &average;
  });
}

void AverageSet::flush() const {
  if (turns_.empty()) return;
  // Emptied first: the log may read the set, and a failed update is not retried.
  made_.clear();
  made_.swap(turns_);
  together_.clear();
  for (const Turn& turn : made_) {
    if (!turn.due) continue;
    const NamedAverage& item = items_[turn.item];
    together_.push_back(item.average.get());
    log_(scalar("ema_momentum", item), item.average->weight(item.average->steps()));
  }
  if (together_.empty()) return;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  update_together(together_, model_());
  log_("ema_time_ms", std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  const bool resets =
      std::any_of(together_.begin(), together_.end(),
                  [](const AveragedModel* average) { return average->wants_optimizer_reset(); });
  if (resets && !(reset_optimizer_ && reset_optimizer_()) && !warned_of_reset_) {
    warned_of_reset_ = true;
    log_warning(
        "write_back.optimizer_state: reset does nothing, as the optimizer is not known here; set "
        "LoopHooksSettings::optimizer, or remove the key");
  }
  for (const Turn& turn : made_) {
    const NamedAverage& item = items_[turn.item];
    const int64_t skipped = item.average->skipped();
    if (skipped > 0) log_(scalar("ema_skipped", item), static_cast<double>(skipped));
  }
}

const std::vector<NamedAverage>& AverageSet::all() const {
  flush();
  return items_;
}

void AverageSet::warn_of_nonfinite(int64_t iterations) const {
  for (const NamedAverage& item : all()) {
    const AveragedModel* average = item.average.get();
    if (std::find(warned_.begin(), warned_.end(), average) != warned_.end()) continue;
    const std::string bad = average->find_nonfinite();
    if (bad.empty()) continue;
    warned_.push_back(average);
    log_warning(
        "{} holds a NaN or an infinity after iteration {} ({}); continue from an earlier "
        "checkpoint with a lower learning rate or clipped gradients, and with skip_nonfinite: "
        "true, which keeps an average at its last finite values",
        description(item), iterations, bad);
  }
}

std::shared_ptr<AveragedModel> AverageSet::find(const std::string& name) const {
  for (const NamedAverage& item : all()) {
    if (item.name == name) return item.average;
  }
  return nullptr;
}

}  // namespace polyak
