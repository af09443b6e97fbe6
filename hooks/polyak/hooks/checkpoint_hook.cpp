// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/checkpoint_hook.h"

#include <ATen/Functions.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <utility>

#include "polyak/checkpoint/background_writer.h"
#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/format.h"
#include "polyak/core/log.h"
#include "polyak/hooks/checkpoint_hook_files.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/metric_names.h"
#include "polyak/runtime/publish.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

void remove_name(Value& record, const char* list, const std::string& file) {
  std::vector<Value>& names = record.at(list).items();
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const Value& name) { return name.as_string() == file; }),
              names.end());
}

/// Logs a line, in one of several processes.
void tell(Runner& runner, const std::string& line) {
  if (is_main(runner.process_group().get())) log_info("{}", line);
}

CheckpointSource& source_of(Runner& runner) {
  CheckpointSource* source = runner.checkpoint_source();
  if (!source) {
    fail<ConfigError>("CheckpointHook: this runner makes no checkpoints; remove the hook");
  }
  return *source;
}

}  // namespace

CheckpointHook::CheckpointHook(CheckpointHookOptions options)
    : options_(std::move(options)), writer_(std::make_unique<BackgroundWriter>()) {
  check_options(options_, "CheckpointHook");
  if (options_.published().is_null()) return;
  published_ = std::make_unique<PublishOptions>();
  read_options(options_.published(), *published_, "published");
}

CheckpointHook::~CheckpointHook() = default;

/// A file to write, and what depends on it.
struct CheckpointHook::Save {
  std::string file;
  Kind kind;
  std::string weights;                  // "": what state_dict has by default
  std::function<void()> restore;        // what this hook has recorded, if the file is not written
  std::function<void()> after = [] {};  // once it is safe
};

bool CheckpointHook::by_epoch(const Runner& runner) const {
  return options_.by_epoch().value_or(runner.progress().by_epoch);
}

void CheckpointHook::check_run(Runner& runner) {
  if (!runner.training()) return;
  if (options_.interval() < 0 && options_.max_keep_ckpts() > 0) {
    log_warning(
        "CheckpointHook: max_keep_ckpts is {}, but {} is saved, since interval is -1; set "
        "interval: 1 to save after each epoch",
        options_.max_keep_ckpts(),
        options_.save_last() ? "only the last" : "no regular checkpoint");
  }
  if (folder(runner).empty()) {
    fail<ConfigError>("CheckpointHook: there is no folder to write to; set work_dir or out_dir");
  }
  const std::string reason =
      is_main(runner.process_group().get()) ? unwritable_reason(folder(runner)) : "";
  if (!reason.empty()) {
    fail<ConfigError>("CheckpointHook: {} cannot be written: {}", folder(runner), reason);
  }
  if (by_epoch(runner) && !runner.progress().by_epoch) {
    log_warning(
        "CheckpointHook: by_epoch is true, but the training loop counts iterations, so it only "
        "saves at the end; set by_epoch: false");
  }
  check_order(runner);
  for (const CheckpointHook* peer : peers_of(runner, this)) {
    if (peer == this) break;
    const bool same_names = same_path(peer->folder(runner), folder(runner)) &&
                            peer->by_epoch(runner) == by_epoch(runner);
    const bool same_content =
        peer->options_.save_optimizer() == options_.save_optimizer() &&
        peer->options_.save_param_scheduler() == options_.save_param_scheduler();
    if (same_names && !same_content) {
      fail<ConfigError>(
          "CheckpointHook: two hooks write {} to {}, but only one saves the state of the optimizer "
          "and schedulers; set another out_dir for one of them",
          pattern(runner), folder(runner));
    }
  }
  // If the optimizer cannot be saved, fail now and not after hours.
  const Value checkpoint =
      source_of(runner).make_checkpoint(options_.save_optimizer(), options_.save_param_scheduler());
  if (published_) check_published_keys(*published_, checkpoint);
  for (const std::string& wanted : options_.save_best()) {
    if (wanted != "auto") {
      check_metric(wanted, measured_metrics(runner), "CheckpointHook", "save_best");
    }
  }
}

/// A file would miss the changes of hooks that run later in the same iteration.
void CheckpointHook::check_order(Runner& runner) {
  bool reached = false;
  runner.hooks().call([&](Hook& hook) {
    reached = reached || &hook == this;
    if (!reached || !hook.changes_checkpoints()) return;
    fail<ConfigError>(
        "CheckpointHook: runs before {}, so its files would miss that hook's changes of the last "
        "iteration; give CheckpointHook a lower priority, such as LOWEST",
        hook.name());
  });
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
  if (published_) check_published_weights(*published_, runner.averages());
  own_files_.clear();
  for (const NamedAverage& item : runner.averages()) {
    if (item.own_file) own_files_.push_back(item.name);
  }
  if (runner.resuming()) {
    saved_at_ = runner.progress().iter;
    const std::vector<Value>& kept = record(runner).at(kKept).items();
    is_newest_ = !kept.empty() && is_named(runner, kept.back().as_string());
    // Removals that the previous run did not complete.
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
    if (same_path(peer->folder(runner), folder_)) return;  // it has warned
  }
  if (!is_main(runner.process_group().get())) return;
  const std::vector<std::string> found = regular_checkpoints(folder_);
  if (found.empty()) return;
  log_warning(
      "CheckpointHook: {} contains {} checkpoint(s) of an earlier run, the newest {}; this run "
      "overwrites files with the same names; resume the earlier run, or use another work_dir",
      folder_, found.size(), std::filesystem::path(found.front()).filename().string());
}

void CheckpointHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                      const Scalars& /*outputs*/) {
  if (writer_->done()) finish();
  if (by_epoch(runner)) return;
  if (every_n_train_iters(runner, options_.interval(), options_.save_begin()) ||
      (options_.save_last() && is_last_train_iter(runner))) {
    const int64_t done = runner.progress().iter + 1;
    tell(runner, fmt::format("Saving checkpoint at {} iterations", done));
    save_regular(runner, done, done);
  }
}

void CheckpointHook::after_train_epoch(Runner& runner) {
  if (!by_epoch(runner)) return;
  if (every_n_epochs(runner, options_.interval(), options_.save_begin()) ||
      (options_.save_last() && is_last_train_epoch(runner))) {
    const int64_t done = runner.progress().epoch + 1;
    tell(runner, fmt::format("Saving checkpoint at {} epochs", done));
    save_regular(runner, done, runner.progress().iter);
  }
}

void CheckpointHook::after_train(Runner& runner) {
  finish_all(runner);
  const Progress& progress = runner.progress();
  const bool early = progress.max_iters <= 0 || progress.iter < progress.max_iters;
  if (!early) {
    remove_files(runner, kOutdated);
    remove_stop(runner);
  } else if (progress.iter > 0 && peers_of(runner, this).front() == this) {
    save_for_stop(runner);
  }
}

// ---- writing

/// Best files have no optimizer and name the weights that were measured. The file of a stop has
/// everything that resuming needs, except what a hook cannot add because of a signal.
Value CheckpointHook::assemble(Runner& runner, Kind kind, const std::string& weights) {
  const bool resumable = kind != Kind::best;
  const bool stop = kind == Kind::stop;
  Value checkpoint =
      source_of(runner).make_checkpoint(stop || (resumable && options_.save_optimizer()),
                                        stop || (resumable && options_.save_param_scheduler()));
  runner.hooks().call([&](Hook& hook) {
    try {
      hook.before_save_checkpoint(runner, checkpoint);
    } catch (const Interrupted&) {
      if (!stop) throw;
    }
  });
  const bool averaged = checkpoint.contains("ema_state_dict");
  put_into_state_dict(checkpoint, !weights.empty() ? weights : averaged ? "averaged" : "raw");
  return checkpoint;
}

void CheckpointHook::write_files(const Value& checkpoint, const std::string& file,
                                 bool publish_it) const {
  // Before the checkpoint: where that is, they are too.
  for (const std::string& average : own_files_) {
    PublishOptions own;
    own.format = "pth";
    own.weights = average.empty() ? "averaged" : average;
    publish(checkpoint, own_stem(path_of(file), average), own);
  }
  write_checkpoint_file(path_of(file), checkpoint);
  if (publish_it) publish(checkpoint, published_stem(path_of(file)), *published_);
}

bool CheckpointHook::is_last(const Runner& runner) const {
  return by_epoch(runner) ? is_last_train_epoch(runner) : is_last_train_iter(runner);
}

/// Writes a file, or begins to. The caller has called finish_all().
void CheckpointHook::write(Runner& runner, const Save& save) {
  try {
    const bool writes = is_main(runner.process_group().get());
    std::error_code error;  // the write below reports a failure
    if (writes) std::filesystem::create_directories(folder_, error);
    const bool publish_it =
        published_ && (save.kind == Kind::best || (save.kind == Kind::regular && is_last(runner)));
    if (publish_it && writes) {
      std::filesystem::create_directories(
          std::filesystem::path(published_stem(path_of(save.file))).parent_path(), error);
    }
    const Value checkpoint = assemble(runner, save.kind, save.weights);
    const bool can_resume =
        save.kind != Kind::best && source_of(runner).can_resume_from(checkpoint);
    const std::string file = save.file;
    // Where training goes on without a file, all processes must know at once that it is missing.
    const bool in_background =
        options_.async_save() && save.kind != Kind::stop && writes &&
        (size_of(runner.process_group().get()) == 1 || options_.on_save_error() == "stop");
    if (!in_background) {
      std::string problem;
      try {
        if (writes) write_files(checkpoint, file, publish_it);
        if (writes && can_resume) move_pointer(runner, file);
      } catch (const std::exception& failure) {
        problem = first_line(failure);
      }
      agree_on(runner, std::move(problem));
      commit(runner, save, can_resume);
      return;
    }
    writer_->start(checkpoint, [this, file, publish_it](const Value& copy) {
      write_files(copy, file, publish_it);
    });
    pending_ = [this, &runner, save, can_resume] {
      try {
        writer_->finish();
        if (can_resume) move_pointer(runner, save.file);
        commit(runner, save, can_resume);
      } catch (const CheckpointError& error) {
        save.restore();
        handle_error(error);
      }
    };
  } catch (const CheckpointError& error) {
    save.restore();
    handle_error(error);
  } catch (...) {
    save.restore();
    throw;
  }
}

/// Of several processes, the one that writes tells the others whether it could.
/// @param error why not; empty: it could, or this process does not write
void CheckpointHook::agree_on(Runner& runner, std::string error) const {
  const std::shared_ptr<ProcessGroup> processes = runner.process_group();
  if (size_of(processes.get()) > 1 && options_.on_save_error() != "stop") {
    const at::Tensor failed = at::full({1}, error.empty() ? 0 : 1, at::kInt);
    processes->broadcast(failed, 0, "writing a checkpoint");
    if (error.empty() && failed.item<int>() != 0) error = "rank 0 could not write a checkpoint";
  }
  if (!error.empty()) throw CheckpointError(error);
}

/// Waits for a file that is being written in the background.
void CheckpointHook::finish() {
  if (const auto pending = std::exchange(pending_, nullptr)) pending();
}

/// Before a file is assembled: it has the records of all hooks, which must not depend on how fast a
/// thread was.
void CheckpointHook::finish_all(Runner& runner) {
  for (CheckpointHook* peer : peers_of(runner, this)) peer->finish();
}

/// Called in a handler.
void CheckpointHook::handle_error(const CheckpointError& error) const {
  if (options_.on_save_error() == "stop") throw;
  log_warning("CheckpointHook: {}; training goes on without this file (on_save_error: continue)",
              error.what());
}

/// What follows when a file is safe.
void CheckpointHook::commit(Runner& runner, const Save& save, bool can_resume) {
  const std::vector<CheckpointHook*> peers = peers_of(runner, this);
  if (can_resume) {
    for (CheckpointHook* peer : peers) {
      peer->is_newest_ = peer == this;
      peer->remove_files(runner, kOutdated);
    }
  } else if (save.kind != Kind::best &&
             std::none_of(peers.begin(), peers.end(), [](const CheckpointHook* peer) {
               return peer->options_.save_optimizer();
             })) {
    remove_files(runner, kOutdated);  // no run can resume from files of this one
  }
  save.after();
}

std::string CheckpointHook::pointer_folder(const Runner& runner) const {
  return runner.work_dir().empty() ? folder_ : runner.work_dir();
}

void CheckpointHook::move_pointer(const Runner& runner, const std::string& file) const {
  namespace fs = std::filesystem;
  if (!is_main(runner.process_group().get())) return;
  const fs::path base = pointer_folder(runner);
  const fs::path target = fs::path(path_of(file));
  std::error_code error;
  fs::path name = fs::proximate(target, base, error);
  const bool outside = !name.empty() && *name.begin() == "..";
  // Relative, so that the folder can be moved; but not for an absolute out_dir elsewhere.
  if (error || (outside && target.is_absolute())) name = fs::absolute(target);
  fs::create_directories(base, error);
  replace_text_file((base / "last_checkpoint").string(), name.string());
}

void CheckpointHook::save_regular(Runner& runner, int64_t number, int64_t iters) {
  finish_all(runner);
  const std::string file = regular_file(runner, number);
  const Value before = record(runner);
  // Saved in the file, so that a run that resumes from it completes the removals.
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
  // The file of a stop is needed until there is a newer one.
  if (const Value* stop = mine.find(kStop); stop && options_.save_optimizer()) {
    if (stop->as_string() != file) surplus.push_back(*stop);
    mine.erase(kStop);
  }
  mine.erase(kOwed);
  Save save{file, Kind::regular, "", [this, &runner, before] { record(runner) = before; }};
  save.after = [this, &runner, iters] {
    saved_at_ = iters;
    // Not before the write, as the reference does: a full disk would lose both files.
    remove_files(runner, kSurplus);
  };
  try {
    write(runner, save);
  } catch (const Interrupted&) {  // the file of the stop records that this one is owed
    record(runner).set(kOwed, number);
  }
}

/// The hooks that write a file if training stops early: one after a signal, to resume from;
/// otherwise all with save_last, one for each folder, and at least one if a stop was requested.
std::vector<CheckpointHook*> CheckpointHook::writers_at_stop(Runner& runner) {
  const std::vector<CheckpointHook*> peers = peers_of(runner, this);
  std::vector<CheckpointHook*> writers;
  for (CheckpointHook* peer : peers) {
    const bool has_folder = std::any_of(writers.begin(), writers.end(), [&](auto* writer) {
      return same_path(writer->folder_, peer->folder_);
    });
    if (peer->options_.save_last() && !has_folder) writers.push_back(peer);
  }
  if (writers.empty() && runner.stop_requested()) writers = {peers.front()};
  if (runner.interrupted() && !writers.empty()) writers.erase(writers.begin() + 1, writers.end());
  return writers;
}

/// The first of these hooks does it for all, so that the record in each file includes all of them.
void CheckpointHook::save_for_stop(Runner& runner) {
  const Progress& progress = runner.progress();
  const int64_t iters = progress.iter;
  std::vector<CheckpointHook*> writers = writers_at_stop(runner);
  const auto is_saved = [&](const CheckpointHook* hook) { return hook->saved_at_ == iters; };
  if (runner.interrupted()) {  // there may already be a file of this iteration to resume from
    for (const CheckpointHook* peer : peers_of(runner, this)) {
      if (is_saved(peer) && peer->options_.save_optimizer()) return;
    }
  } else {
    writers.erase(std::remove_if(writers.begin(), writers.end(), is_saved), writers.end());
  }
  if (writers.empty()) return;
  tell(runner, fmt::format("Saving checkpoint at {} iterations, where training stops", iters));
  const Value before = runner.run_info();
  std::vector<std::string> files;
  for (CheckpointHook* writer : writers) {
    const bool whole_epoch = writer->by_epoch(runner) && progress.by_epoch &&
                             progress.epoch_length > 0 &&
                             iters == progress.epoch * progress.epoch_length;
    files.push_back(whole_epoch ? fmt::format("epoch_{}.pth", progress.epoch)
                                : fmt::format("iter_{}.pth", iters));
    Value& theirs = writer->record(runner);
    if (const Value* stop = theirs.find(kStop); stop && stop->as_string() != files.back()) {
      theirs.at(kSurplus).items().push_back(*stop);
    }
    remove_name(theirs, kSurplus, files.back());
    theirs.set(kStop, files.back());
  }
  for (size_t i = 0; i < writers.size(); ++i) {
    CheckpointHook* const writer = writers[i];
    Save save{files[i], Kind::stop, "", [&runner, before] { runner.run_info() = before; }};
    save.after = [writer, &runner, iters] {
      writer->saved_at_ = iters;
      writer->remove_files(runner, kSurplus);
    };
    writer->write(runner, save);
  }
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
      check_metric(wanted, names, "CheckpointHook", "save_best");
      continue;  // not reached: there are names
    }
    save_if_best(runner, found->first, found->second, weights_of(runner, found->first, metrics));
  }
}

/// The regular file of this epoch or iteration was written before the validation. After all hooks
/// have seen the metrics, the file to resume from is written again with the scores, so that a
/// resumed run does not repeat the validation.
void CheckpointHook::after_val(Runner& runner) {
  finish_all(runner);
  if (!measured_ || !is_newest_) return;
  const Progress& progress = runner.progress();
  const std::vector<Value>& kept = record(runner).at(kKept).items();
  const std::string present =
      regular_file(runner, by_epoch(runner) ? progress.epoch : progress.iter);
  if (saved_at_ != progress.iter || kept.empty() || kept.back().as_string() != present) return;
  write(runner, {present, Kind::regular, "", [] {}});
}

void CheckpointHook::save_if_best(Runner& runner, const std::string& metric, double value,
                                  const std::string& weights) {
  finish_all(runner);
  const bool larger = options_.larger_is_better(metric);
  const Value before = record(runner);
  const Value* best = before.at(kBest).find(metric);
  if (std::isnan(value)) return;
  if (best) {
    const double score = best->at("score").as_real();
    if (larger ? value <= score : value >= score) return;
  }
  // During validation, the counters are those of finished epochs and iterations.
  const Progress& progress = runner.progress();
  std::string safe = metric;
  std::replace(safe.begin(), safe.end(), '/', '_');
  const int64_t number = by_epoch(runner) ? progress.epoch : progress.iter;
  const std::string file = fmt::format("best_{}_{}", safe, regular_file(runner, number));
  Value& mine = record(runner);
  remove_name(mine, kOutdated, file);
  if (const Value* old = best ? best->find("file") : nullptr; old && old->as_string() != file) {
    mine.at(kOutdated).items().push_back(*old);
  }
  Value now = Value::dict();
  now.set("score", value);
  now.set("file", file);
  mine.at(kBest).set(metric, std::move(now));
  const Value info = runner.run_info();
  const std::string name = ranks_several(runner) ? "_" + metric : "";
  if (ranks_first(runner, metric)) {  // where MMEngine expects it
    runner.run_info().set("best_score" + name, value);
    runner.run_info().set("best_ckpt" + name, path_of(file));
  }
  const auto restore = [this, &runner, before, info, name] {
    for (const std::string& key : {"best_score" + name, "best_ckpt" + name}) {
      if (const Value* old = info.find(key)) {
        runner.run_info().set(key, *old);
      } else {
        runner.run_info().erase(key);
      }
    }
    record(runner) = before;
  };
  const auto report = [=, &runner, unit = by_epoch(runner) ? "epoch" : "iter"] {
    tell(runner,
         fmt::format(
             "The best checkpoint with {:.4f} {} at {} {} is saved to {}; its state_dict holds the "
             "{} "
             "weights.",
             value, metric, number, unit, file,
             weights == "raw" || weights == "averaged" ? weights : fmt::format("'{}'", weights)));
  };
  write(runner, {file, Kind::best, weights, restore, report});
}

}  // namespace polyak
