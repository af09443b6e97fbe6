#include "polyak/hooks/checkpoint_hook.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>

#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

// What tells whether a metric is better when it is larger, as MMEngine guesses it from the name.
const std::vector<std::string> kLarger{"acc", "top",   "ar@",  "auc",  "precision",
                                       "map", "mdice", "miou", "macc", "aacc"};
const std::vector<std::string> kSmaller{"loss"};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Keys of a hook's record in the run_info.
constexpr const char* kRecords = "checkpoint_hooks";
constexpr const char* kKept = "kept";        // regular files, the oldest first
constexpr const char* kSurplus = "surplus";  // to be removed once the file of this record is whole
constexpr const char* kOutdated =
    "outdated";                        // the same of best files: once a run can go on from it
constexpr const char* kStop = "stop";  // the file of a run that was stopped
constexpr const char* kOwed = "owed";  // the number of a regular file that a signal prevented
constexpr const char* kBest = "best";  // {metric: {score, file}}

void remove_name(Value& record, const char* list, const std::string& file) {
  std::vector<Value>& names = record.at(list).items();
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const Value& name) { return name.as_string() == file; }),
              names.end());
}

Value new_record() {
  Value record = Value::dict();
  for (const char* list : {kKept, kSurplus, kOutdated}) record.set(list, Value::list());
  record.set(kBest, Value::dict());
  return record;
}

/// The hooks of this kind in the order of their calls; `self` alone for a host without a list.
std::vector<CheckpointHook*> peers_of(Runner& runner, CheckpointHook* self) {
  std::vector<CheckpointHook*> peers;
  runner.hooks().call([&](Hook& hook) {
    if (auto* peer = dynamic_cast<CheckpointHook*>(&hook)) peers.push_back(peer);
  });
  if (!std::count(peers.begin(), peers.end(), self)) peers = {self};
  return peers;
}

bool same_path(const std::string& a, const std::string& b) {
  std::error_code error;
  const auto first = std::filesystem::weakly_canonical(a, error);
  return !error && first == std::filesystem::weakly_canonical(b, error);
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

bool mentions(const std::vector<std::string>& words, const std::string& name) {
  return std::any_of(words.begin(), words.end(),
                     [&](const std::string& word) { return name.find(word) != std::string::npos; });
}

}  // namespace

void CheckpointHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("interval", &interval_, "Save every so many epochs or iterations; -1: only the last.",
              steps_from(-1));
  visitor.key("by_epoch", &by_epoch_,
              "Count epochs instead of iterations; null: as the training loop does.");
  visitor.key("save_optimizer", &save_optimizer_,
              "Save the optimizer's state too; a resume needs it.");
  visitor.key("save_param_scheduler", &save_param_scheduler_,
              "Save the schedulers' state too; a resume needs it.");
  visitor.key("out_dir", &out_dir_, "Where checkpoints go; null: the work_dir.");
  visitor.key("max_keep_ckpts", &max_keep_ckpts_,
              "How many regular checkpoints stay, the newest; -1: all of them.", steps_from(-1));
  visitor.key("save_last", &save_last_, "Save at the end of training in any case.");
  visitor.key("save_begin", &save_begin_, "The epoch or iteration from which saving starts.",
              steps_from(0));
  visitor.key("save_best", &save_best_,
              "Metrics whose best checkpoint is kept; 'auto': the first metric there is.");
  visitor.key("rule", &rule_,
              "'greater' or 'less' for each of save_best; empty: told from the name.");
}

void CheckpointHookOptions::validate() const {
  if (interval_ == 0 || interval_ < -1) {
    fail<ConfigError>("interval: must be at least 1, or -1 for the last only, got {}", interval_);
  }
  if (max_keep_ckpts_ == 0 || max_keep_ckpts_ < -1) {
    fail<ConfigError>("max_keep_ckpts: must be at least 1, or -1 for all, got {}", max_keep_ckpts_);
  }
  if (!rule_.empty() && rule_.size() != save_best_.size()) {
    fail<ConfigError>("rule: has {} entries, but save_best has {}", rule_.size(),
                      save_best_.size());
  }
  for (const std::string& rule : rule_) {
    if (rule != "greater" && rule != "less") {
      fail<ConfigError>("rule: must be 'greater' or 'less', got '{}'", rule);
    }
  }
  if (save_best_.size() > 1 && std::count(save_best_.begin(), save_best_.end(), "auto")) {
    fail<ConfigError>("save_best: 'auto' stands alone, got {}", fmt::join(save_best_, ", "));
  }
  for (const std::string& metric : save_best_) {
    const std::string name = lower(metric);
    if (rule_.empty() && metric != "auto" && !mentions(kLarger, name) &&
        !mentions(kSmaller, name)) {
      fail<ConfigError>(
          "save_best: the name '{}' does not tell whether larger is better; add rule: greater "
          "or rule: less",
          metric);
    }
  }
}

CheckpointHook::CheckpointHook(CheckpointHookOptions options) : options_(std::move(options)) {
  check_options(options_, "CheckpointHook");
}

bool CheckpointHook::by_epoch(const Runner& runner) const {
  return options_.by_epoch().value_or(runner.progress().by_epoch);
}

bool CheckpointHook::larger_is_better(const std::string& metric) const {
  const auto& wanted = options_.save_best();
  const auto place = std::find(wanted.begin(), wanted.end(), metric);
  if (!options_.rule().empty()) {
    return options_.rule()[place == wanted.end() ? 0 : place - wanted.begin()] == "greater";
  }
  return !mentions(kSmaller, lower(metric)) || mentions(kLarger, lower(metric));
}

void CheckpointHook::check_run(Runner& runner) {
  if (!runner.training()) return;
  if (options_.interval() < 0 && options_.max_keep_ckpts() > 0) {
    log_warning(
        "CheckpointHook: max_keep_ckpts is {}, but {} is saved, since interval is -1; set "
        "interval: 1 for one after each epoch",
        options_.max_keep_ckpts(),
        options_.save_last() ? "only the last" : "no regular checkpoint");
  }
  if (folder(runner).empty()) {
    fail<ConfigError>("CheckpointHook: has no folder to write to; set work_dir, or its out_dir");
  }
  for (const CheckpointHook* peer : peers_of(runner, this)) {
    if (peer == this) break;
    const bool same_names = same_path(peer->folder(runner), folder(runner)) &&
                            peer->by_epoch(runner) == by_epoch(runner);
    const bool same_content =
        peer->options_.save_optimizer() == options_.save_optimizer() &&
        peer->options_.save_param_scheduler() == options_.save_param_scheduler();
    if (same_names && !same_content) {
      fail<ConfigError>(
          "CheckpointHook: two of them write {} into {}, and only one saves the optimizer's and "
          "schedulers' state; give one an out_dir of its own",
          pattern(runner), folder(runner));
    }
  }
  // An optimizer that cannot be saved says so now, and not after hours.
  runner.make_checkpoint(options_.save_optimizer(), options_.save_param_scheduler());
  std::vector<std::string> names = runner.metric_names();
  if (names.empty()) return;
  const std::vector<std::string> plain = names;
  runner.hooks().call([&](const Hook& hook) {
    for (const auto& [suffix, weights] : hook.measured_weights()) {
      if (suffix.empty()) continue;
      for (const std::string& name : plain) names.push_back(name + suffix);
    }
  });
  for (const std::string& wanted : options_.save_best()) {
    if (wanted == "auto" || std::count(names.begin(), names.end(), wanted)) continue;
    const std::string near = nearest_name(wanted, names);
    fail<ConfigError>(
        "CheckpointHook: save_best: no metric is named '{}'; {}the validation gives {}", wanted,
        near.empty() ? "" : fmt::format("did you mean '{}'? ", near), fmt::join(names, ", "));
  }
}

std::string CheckpointHook::folder(const Runner& runner) const {
  return options_.out_dir().value_or(runner.work_dir());
}

std::string CheckpointHook::pattern(const Runner& runner) const {
  return by_epoch(runner) ? "epoch_N.pth" : "iter_N.pth";
}

std::string CheckpointHook::regular_file(const Runner& runner, int64_t number) const {
  return fmt::format("{}_{}.pth", by_epoch(runner) ? "epoch" : "iter", number);
}

void CheckpointHook::before_run(Runner& runner) {
  folder_ = folder(runner);
}

void CheckpointHook::before_train(Runner& runner) {
  folder_ = folder(runner);
  remove_unfinished(folder_);
  if (runner.resuming()) {
    saved_at_ = runner.progress().iter;
    is_newest_ = is_pointed_at(runner);
    // What the run before was ended over.
    remove_files(runner, kSurplus);
    remove_files(runner, kOutdated);
    if (const Value* owed = record(runner).find(kOwed)) {
      save_regular(runner, owed->as_int(), runner.progress().iter);
    }
    return;
  }
  saved_at_ = -1;
  for (const CheckpointHook* peer : peers_of(runner, this)) {
    if (peer == this) break;
    if (same_path(peer->folder(runner), folder_)) return;  // it has told
  }
  const std::vector<std::string> found = regular_checkpoints(folder_);
  if (found.empty()) return;
  log_warning(
      "CheckpointHook: {} holds {} checkpoint(s) of an earlier run, the newest {}; this run "
      "overwrites files of the same name. To go on with the earlier run, resume it; to keep it, "
      "use another work_dir",
      folder_, found.size(), std::filesystem::path(found.front()).filename().string());
}

void CheckpointHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                      const Scalars& /*outputs*/) {
  if (by_epoch(runner)) return;
  if (every_n_train_iters(runner, options_.interval(), options_.save_begin()) ||
      (options_.save_last() && is_last_train_iter(runner))) {
    const int64_t done = runner.progress().iter + 1;
    log_info("Saving checkpoint at {} iterations", done);
    save_regular(runner, done, done);
  }
}

void CheckpointHook::after_train_epoch(Runner& runner) {
  if (!by_epoch(runner)) return;
  if (every_n_epochs(runner, options_.interval(), options_.save_begin()) ||
      (options_.save_last() && is_last_train_epoch(runner))) {
    const int64_t done = runner.progress().epoch + 1;
    log_info("Saving checkpoint at {} epochs", done);
    save_regular(runner, done, runner.progress().iter);
  }
}

void CheckpointHook::after_train(Runner& runner) {
  const Progress& progress = runner.progress();
  const bool early = progress.max_iters <= 0 || progress.iter < progress.max_iters;
  if (!early) {
    remove_files(runner, kOutdated);
  } else if (progress.iter > 0 && saved_at_ != progress.iter && saves_at_stop(runner)) {
    save_for_stop(runner);
  }
}

// ---- what this hook keeps

/// Whether last_checkpoint names this hook's newest file.
bool CheckpointHook::is_pointed_at(Runner& runner) {
  const std::vector<Value>& kept = record(runner).at(kKept).items();
  if (kept.empty()) return false;
  try {
    const std::string last = named_checkpoint(runner.work_dir(), {folder_});
    return same_path(path_of(kept.back().as_string()), last);
  } catch (const CheckpointError&) {  // it names a file that is gone; the run goes on from another
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

/// 0.1 had one record for all: the regular files by their names, a score for the first hook that
/// ranks its metric.
void CheckpointHook::take_first_version(Runner& runner) {
  Value& info = runner.run_info();
  Value mine = new_record();
  if (const Value* kept = info.find("kept_checkpoints")) {
    const std::string prefix = by_epoch(runner) ? "epoch_" : "iter_";
    for (const Value& name : kept->items()) {
      if (name.as_string().rfind(prefix, 0) == 0) mine.at(kKept).items().push_back(name);
    }
  }
  const std::string score_key = "best_score_";
  for (const auto& [key, score] : info.entries()) {
    if (key.as_string().rfind(score_key, 0) != 0) continue;
    const std::string metric = key.as_string().substr(score_key.size());
    if (!ranks_first(runner, metric)) continue;
    Value best = Value::dict();
    best.set("score", score);
    if (const Value* file = info.find("best_checkpoint_" + metric)) best.set("file", *file);
    mine.at(kBest).set(metric, std::move(best));
  }
  info.at(kRecords).set(record_key(runner), std::move(mine));
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

/// Removes the files of a list but those that a hook keeps, and empties the list.
void CheckpointHook::remove_files(Runner& runner, const char* list) {
  const Value names = record(runner).at(list);
  const std::vector<CheckpointHook*> peers = peers_of(runner, this);
  for (const Value& name : names.items()) {
    const std::string path = path_of(name.as_string());
    const bool kept = std::any_of(peers.begin(), peers.end(),
                                  [&](CheckpointHook* peer) { return peer->keeps(runner, path); });
    std::error_code ignored;
    if (!kept) std::filesystem::remove(path, ignored);
  }
  record(runner).at(list).items().clear();
}

// ---- writing

/// Best files hold no optimizer and name the weights that were measured; the file of a stop goes
/// without what a signal keeps a hook from adding.
void CheckpointHook::write(Runner& runner, const std::string& file, Kind kind,
                           const std::string& weights) {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);  // a failure is told by the write below
  const bool resumable = kind != Kind::best;
  Value checkpoint = runner.make_checkpoint(resumable && options_.save_optimizer(),
                                            resumable && options_.save_param_scheduler());
  runner.hooks().call([&](Hook& hook) {
    try {
      hook.before_save_checkpoint(runner, checkpoint);
    } catch (const Interrupted&) {
      if (kind != Kind::stop) throw;
    }
  });
  const bool averaged = checkpoint.contains("ema_state_dict");
  put_into_state_dict(checkpoint, !weights.empty() ? weights : averaged ? "averaged" : "raw");
  write_pth(path_of(file), checkpoint);
  if (!resumable) return;
  const std::vector<CheckpointHook*> peers = peers_of(runner, this);
  if (runner.can_resume_from(checkpoint)) {
    move_pointer(runner, file);
    for (CheckpointHook* peer : peers) {
      peer->is_newest_ = peer == this;
      peer->remove_files(runner, kOutdated);
    }
  } else if (std::none_of(peers.begin(), peers.end(), [](const CheckpointHook* peer) {
               return peer->options_.save_optimizer();
             })) {
    remove_files(runner, kOutdated);  // no run goes on from any file of this one
  }
}

void CheckpointHook::move_pointer(const Runner& runner, const std::string& file) const {
  namespace fs = std::filesystem;
  const fs::path base = runner.work_dir().empty() ? fs::path(folder_) : fs::path(runner.work_dir());
  const fs::path target = fs::path(path_of(file));
  std::error_code error;
  fs::path name = fs::proximate(target, base, error);
  const bool outside = !name.empty() && *name.begin() == "..";
  // Relative, so that a folder with both can be moved; an absolute out_dir elsewhere stays there.
  if (error || (outside && target.is_absolute())) name = fs::absolute(target);
  fs::create_directories(base, error);
  replace_text_file((base / "last_checkpoint").string(), name.string());
}

void CheckpointHook::save_regular(Runner& runner, int64_t number, int64_t iters) {
  const std::string file = regular_file(runner, number);
  const Value before = record(runner);
  // In the file too, so that a run which goes on from it removes what is left to remove.
  Value& mine = record(runner);
  for (const char* list : {kKept, kSurplus, kOutdated}) remove_name(mine, list, file);
  std::vector<Value>& kept = mine.at(kKept).items();
  std::vector<Value>& surplus = mine.at(kSurplus).items();
  kept.emplace_back(file);
  while (options_.max_keep_ckpts() > 0 &&
         kept.size() > static_cast<size_t>(options_.max_keep_ckpts())) {
    surplus.push_back(kept.front());
    kept.erase(kept.begin());
  }
  if (const Value* stop = mine.find(kStop)) {
    if (stop->as_string() != file) surplus.push_back(*stop);
    mine.erase(kStop);
  }
  mine.erase(kOwed);
  try {
    write(runner, file, Kind::regular, "");
  } catch (const Interrupted&) {  // the file of the stop says that this one is owed
    record(runner) = before;
    record(runner).set(kOwed, number);
    return;
  } catch (...) {
    record(runner) = before;
    throw;
  }
  saved_at_ = iters;
  // Only now: the reference removes the oldest before it writes, and a full disk then loses both.
  remove_files(runner, kSurplus);
}

/// Whether this hook writes a file when training stops early. Those with save_last do, and where a
/// stop was asked for, at least one that a run can go on from; of those that share a folder, one.
bool CheckpointHook::saves_at_stop(Runner& runner) {
  const std::vector<CheckpointHook*> peers = peers_of(runner, this);
  const auto resumable = [](const CheckpointHook* hook) { return hook->options_.save_optimizer(); };
  std::vector<CheckpointHook*> writers;
  std::copy_if(peers.begin(), peers.end(), std::back_inserter(writers),
               [](const CheckpointHook* hook) { return hook->options_.save_last(); });
  if (runner.stop_requested() && std::none_of(writers.begin(), writers.end(), resumable)) {
    const auto first = std::find_if(peers.begin(), peers.end(), resumable);
    if (first != peers.end()) writers.push_back(*first);
  }
  std::stable_partition(writers.begin(), writers.end(), resumable);
  const auto writer = std::find_if(writers.begin(), writers.end(), [&](const CheckpointHook* hook) {
    return same_path(hook->folder_, folder_);
  });
  return writer != writers.end() && *writer == this;
}

void CheckpointHook::save_for_stop(Runner& runner) {
  const Progress& progress = runner.progress();
  const bool whole_epoch = by_epoch(runner) && progress.by_epoch && progress.epoch_length > 0 &&
                           progress.iter == progress.epoch * progress.epoch_length;
  const std::string file = whole_epoch ? fmt::format("epoch_{}.pth", progress.epoch)
                                       : fmt::format("iter_{}.pth", progress.iter);
  const Value before = record(runner);
  Value& mine = record(runner);
  if (const Value* stop = mine.find(kStop); stop && stop->as_string() != file) {
    mine.at(kSurplus).items().push_back(*stop);
  }
  remove_name(mine, kSurplus, file);
  mine.set(kStop, file);
  log_info("Saving checkpoint at {} iterations, where training stops", progress.iter);
  try {
    write(runner, file, Kind::stop, "");
  } catch (...) {
    record(runner) = before;
    throw;
  }
  saved_at_ = progress.iter;
  remove_files(runner, kSurplus);
}

// ---- the best

void CheckpointHook::after_val_epoch(Runner& runner, Scalars& metrics) {
  measured_ = !metrics.empty();
  if (!measured_) return;
  for (const std::string& wanted : options_.save_best()) {
    const auto found = wanted == "auto" ? metrics.begin() : metrics.find(wanted);
    if (found == metrics.end()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : metrics) names.push_back(name);
      fail<ConfigError>(
          "CheckpointHook: save_best: no metric is named '{}'; the validation gives {}", wanted,
          fmt::join(names, ", "));
    }
    save_if_best(runner, found->first, found->second, weights_of(runner, found->first, metrics));
  }
}

/// The regular file of this moment was written before the validation. Once every hook has seen its
/// metrics, the file that a run goes on from is written again: then it knows the scores, and the
/// validation is not repeated.
void CheckpointHook::after_val(Runner& runner) {
  if (!measured_ || !is_newest_) return;
  const Progress& progress = runner.progress();
  const std::vector<Value>& kept = record(runner).at(kKept).items();
  const std::string present =
      regular_file(runner, by_epoch(runner) ? progress.epoch : progress.iter);
  if (saved_at_ != progress.iter || kept.empty() || kept.back().as_string() != present) return;
  write(runner, present, Kind::regular, "");
}

std::string CheckpointHook::weights_of(Runner& runner, const std::string& metric,
                                       const Scalars& metrics) const {
  std::map<std::string, std::string> measured;
  runner.hooks().call([&](const Hook& hook) { measured.merge(hook.measured_weights()); });
  const std::vector<std::string> plain = runner.metric_names();
  const auto is_plain = [&](const std::string& name) {
    return plain.empty() ? metrics.count(name) > 0
                         : std::count(plain.begin(), plain.end(), name) > 0;
  };
  if (plain.empty() || !is_plain(metric)) {
    for (const auto& [suffix, weights] : measured) {
      if (suffix.empty() || !ends_with(metric, suffix)) continue;
      if (is_plain(metric.substr(0, metric.size() - suffix.size()))) return weights;
    }
  }
  const auto own = measured.find("");
  return own == measured.end() ? "raw" : own->second;
}

void CheckpointHook::save_if_best(Runner& runner, const std::string& metric, double value,
                                  const std::string& weights) {
  const bool larger = larger_is_better(metric);
  const Value before = record(runner);
  const Value* best = before.at(kBest).find(metric);
  if (std::isnan(value)) return;
  if (best) {
    const double score = best->at("score").as_real();
    if (larger ? value <= score : value >= score) return;
  }
  // During validation the counters stand at finished epochs and iterations.
  const Progress& progress = runner.progress();
  std::string safe = metric;
  std::replace(safe.begin(), safe.end(), '/', '_');
  const std::string file = by_epoch(runner)
                               ? fmt::format("best_{}_epoch_{}.pth", safe, progress.epoch)
                               : fmt::format("best_{}_iter_{}.pth", safe, progress.iter);
  Value& mine = record(runner);
  remove_name(mine, kOutdated, file);
  if (const Value* old = best ? best->find("file") : nullptr; old && old->as_string() != file) {
    mine.at(kOutdated).items().push_back(*old);
  }
  Value now = Value::dict();
  now.set("score", value);
  now.set("file", file);
  mine.at(kBest).set(metric, std::move(now));
  const Value info_before = runner.run_info();
  if (ranks_first(runner, metric)) {  // where other programs look for it
    runner.run_info().set("best_score_" + metric, value);
    runner.run_info().set("best_checkpoint_" + metric, file);
  }
  try {
    write(runner, file, Kind::best, weights);
  } catch (...) {
    runner.run_info() = info_before;
    record(runner) = before;
    throw;
  }
  log_info(
      "The best checkpoint with {:.4f} {} at {} {} is saved to {}; its state_dict holds the {} "
      "weights.",
      value, metric, by_epoch(runner) ? progress.epoch : progress.iter,
      by_epoch(runner) ? "epoch" : "iter", file,
      weights == "raw" || weights == "averaged" ? weights : fmt::format("'{}'", weights));
}

}  // namespace polyak
