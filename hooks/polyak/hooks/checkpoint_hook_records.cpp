// SPDX-License-Identifier: Apache-2.0
// What a CheckpointHook records about its files, and which of them it keeps.
#include "polyak/hooks/checkpoint_hook.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "polyak/hooks/checkpoint_hook_files.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/publish.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

Value new_record() {
  Value record = Value::dict();
  for (const char* list : {kKept, kSurplus, kOutdated}) record.set(list, Value::list());
  record.set(kBest, Value::dict());
  return record;
}

}  // namespace

std::vector<CheckpointHook*> CheckpointHook::peers_of(Runner& runner, CheckpointHook* self) {
  std::vector<CheckpointHook*> peers;
  runner.hooks().call([&](Hook& hook) {
    if (auto* peer = dynamic_cast<CheckpointHook*>(&hook)) peers.push_back(peer);
  });
  if (!std::count(peers.begin(), peers.end(), self)) peers = {self};
  return peers;
}

/// Whether last_checkpoint names this file.
bool CheckpointHook::is_named(const Runner& runner, const std::string& file) const {
  try {
    return same_path(path_of(file), named_checkpoint(runner.work_dir(), {folder_}));
  } catch (const CheckpointError&) {  // it names a missing file; the run resumed from another
    return false;
  }
}

std::string CheckpointHook::record_key(Runner& runner) {
  const auto key = [&](const CheckpointHook& hook) {
    const auto& out_dir = hook.options_.out_dir();
    return (out_dir ? *out_dir + "/" : "") + hook.pattern(runner);
  };
  int place = 1;
  for (const CheckpointHook* peer : peers_of(runner, this)) {
    if (peer == this) break;
    if (key(*peer) == key(*this)) ++place;
  }
  return place == 1 ? key(*this) : fmt::format("{} #{}", key(*this), place);
}

Value& CheckpointHook::record(Runner& runner) {
  Value& info = runner.run_info();
  if (!info.contains(kRecords)) {
    info.set(kRecords, Value::dict());
    for (CheckpointHook* peer : peers_of(runner, this)) peer->take_first_version(runner);
    info.erase("kept_checkpoints");
  }
  Value& records = info.at(kRecords);
  const std::string key = record_key(runner);
  if (!records.contains(key)) records.set(key, new_record());
  return records.at(key);
}

/// Creates the record from a file without records. 0.1 saved the names of regular files. It and
/// MMEngine saved the score of each metric, MMEngine without the metric's name if there is only
/// one.
void CheckpointHook::take_first_version(Runner& runner) {
  Value& info = runner.run_info();
  Value mine = new_record();
  if (const Value* kept = info.find("kept_checkpoints")) {
    const std::string prefix = by_epoch(runner) ? "epoch_" : "iter_";
    for (const Value& name : kept->items()) {
      if (name.as_string().rfind(prefix, 0) == 0) mine.at(kKept).items().push_back(name);
    }
  }
  std::vector<std::string> ranked = options_.save_best();
  const std::vector<std::string> names = runner.metric_names();
  if (!names.empty()) {
    std::replace(ranked.begin(), ranked.end(), std::string("auto"),
                 *std::min_element(names.begin(), names.end()));
  }
  for (const std::string& metric : ranked) {
    if (!ranks_first(runner, metric)) continue;
    const std::string name = info.contains("best_score_" + metric) ? "_" + metric : "";
    const Value* score = info.find("best_score" + name);
    if (!score || (name.empty() && ranks_several(runner))) continue;
    Value best = Value::dict();
    best.set("score", score->as_real());
    for (const char* key : {"best_checkpoint", "best_ckpt"}) {
      const Value* path = info.find(key + name);
      if (!path || path->kind() != Value::Kind::string) continue;
      const std::string file = std::filesystem::path(path->as_string()).filename().string();
      std::error_code ignored;
      if (std::filesystem::exists(path_of(file), ignored)) best.set("file", file);
    }
    mine.at(kBest).set(metric, std::move(best));
  }
  info.at(kRecords).set(record_key(runner), std::move(mine));
}

/// Whether this run ranks more than one metric. MMEngine's keys then contain the metric.
bool CheckpointHook::ranks_several(Runner& runner) {
  size_t metrics = 0;
  for (const CheckpointHook* peer : peers_of(runner, this)) {
    metrics += peer->options_.save_best().size();
  }
  return metrics > 1;
}

bool CheckpointHook::ranks_first(Runner& runner, const std::string& metric) {
  for (const CheckpointHook* peer : peers_of(runner, this)) {
    const auto& wanted = peer->options_.save_best();
    const bool ranks = std::count(wanted.begin(), wanted.end(), metric) ||
                       std::count(wanted.begin(), wanted.end(), "auto");
    if (ranks) return peer == this;
  }
  return false;
}

bool CheckpointHook::keeps(Runner& runner, const std::string& path) {
  const Value& mine = record(runner);
  std::vector<std::string> files;
  for (const Value& name : mine.at(kKept).items()) files.push_back(name.as_string());
  if (const Value* stop = mine.find(kStop)) files.push_back(stop->as_string());
  for (const auto& [metric, best] : mine.at(kBest).entries()) {
    if (const Value* file = best.find("file")) files.push_back(file->as_string());
  }
  return std::any_of(files.begin(), files.end(),
                     [&](const std::string& file) { return same_path(path_of(file), path); });
}

/// Removes the files of a list, except those that a hook keeps, and clears the list.
void CheckpointHook::remove_files(Runner& runner, const char* list) {
  const Value names = record(runner).at(list);
  const std::vector<CheckpointHook*> peers = peers_of(runner, this);
  for (const Value& name : names.items()) {
    const std::string path = path_of(name.as_string());
    const bool kept = std::any_of(peers.begin(), peers.end(),
                                  [&](CheckpointHook* peer) { return peer->keeps(runner, path); });
    std::error_code ignored;
    if (kept || !is_main(runner.process_group().get())) continue;
    std::filesystem::remove(path, ignored);
    for (const std::string& average : own_files_) {
      std::filesystem::remove(own_stem(path, average) + ".pth", ignored);
    }
    if (published_) {
      std::filesystem::remove(published_path(published_stem(path), *published_), ignored);
    }
  }
  record(runner).at(list).items().clear();
}

/// For the end of a run whose files have no optimizer: the file of the stop is not needed any more.
void CheckpointHook::remove_stop(Runner& runner) {
  Value& mine = record(runner);
  const Value* stop = mine.find(kStop);
  if (!stop) return;
  const std::string file = stop->as_string();
  const bool named = is_named(runner, file);
  mine.at(kSurplus).items().emplace_back(file);
  mine.erase(kStop);
  remove_files(runner, kSurplus);
  std::error_code ignored;
  if (named && is_main(runner.process_group().get()) &&
      !std::filesystem::exists(path_of(file), ignored)) {
    std::filesystem::remove(pointer_folder(runner) + "/last_checkpoint", ignored);
  }
}

}  // namespace polyak
