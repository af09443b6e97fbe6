#include "polyak/hooks/checkpoint_hook.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <filesystem>

#include "polyak/checkpoint/file.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"
#include "polyak/runtime/hook_list.h"
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

bool mentions(const std::vector<std::string>& words, const std::string& name) {
  return std::any_of(words.begin(), words.end(),
                     [&](const std::string& word) { return name.find(word) != std::string::npos; });
}

}  // namespace

void CheckpointHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("interval", &interval_,
              "Save every so many epochs or iterations; -1: only the last.");
  visitor.key("by_epoch", &by_epoch_,
              "Count epochs instead of iterations; null: as the training loop does.");
  visitor.key("save_optimizer", &save_optimizer_,
              "Save the optimizer's state too; a resume needs it.");
  visitor.key("save_param_scheduler", &save_param_scheduler_,
              "Save the schedulers' state too; a resume needs it.");
  visitor.key("out_dir", &out_dir_, "Where checkpoints go; null: the work_dir.");
  visitor.key("max_keep_ckpts", &max_keep_ckpts_,
              "How many regular checkpoints stay, the newest; -1: all of them.");
  visitor.key("save_last", &save_last_, "Save at the end of training in any case.");
  visitor.key("save_begin", &save_begin_, "The epoch or iteration from which saving starts.",
              at_least(0));
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
  if (options_.out_dir().value_or(runner.work_dir()).empty()) {
    fail<ConfigError>("CheckpointHook: has no folder to write to; set work_dir, or its out_dir");
  }
  std::vector<std::string> names = runner.metric_names();
  if (names.empty()) return;
  const std::vector<std::string> plain = names;
  runner.hooks().call([&](const Hook& hook) {
    for (const std::string& suffix : hook.metric_suffixes()) {
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

void CheckpointHook::before_run(Runner& runner) {
  folder_ = options_.out_dir().value_or(runner.work_dir());
}

void CheckpointHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                      const Scalars& /*outputs*/) {
  if (by_epoch(runner)) return;
  if (every_n_train_iters(runner, options_.interval(), options_.save_begin()) ||
      (options_.save_last() && is_last_train_iter(runner))) {
    log_info("Saving checkpoint at {} iterations", runner.progress().iter + 1);
    save_regular(runner, runner.progress().iter + 1);
  }
}

void CheckpointHook::after_train_epoch(Runner& runner) {
  if (!by_epoch(runner)) return;
  if (every_n_epochs(runner, options_.interval(), options_.save_begin()) ||
      (options_.save_last() && is_last_train_epoch(runner))) {
    log_info("Saving checkpoint at {} epochs", runner.progress().epoch + 1);
    save_regular(runner, runner.progress().epoch + 1);
  }
}

void CheckpointHook::write(Runner& runner, const std::string& file, bool with_optimizer,
                           bool with_schedulers) const {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);  // a failure is told by the write below
  Value checkpoint = runner.make_checkpoint(with_optimizer, with_schedulers);
  runner.hooks().call([&](Hook& hook) { hook.before_save_checkpoint(runner, checkpoint); });
  write_pth(path_of(file), checkpoint);
}

std::string CheckpointHook::regular_file(const Runner& runner, int64_t number) const {
  return fmt::format("{}_{}.pth", by_epoch(runner) ? "epoch" : "iter", number);
}

void CheckpointHook::save_regular(Runner& runner, int64_t number) {
  const std::string file = regular_file(runner, number);
  Value& info = runner.run_info();
  if (!info.contains("kept_checkpoints")) info.set("kept_checkpoints", Value::list());
  // In the file too, so that a resumed run goes on removing the oldest.
  std::vector<Value>& kept = info.at("kept_checkpoints").items();
  kept.erase(std::remove_if(kept.begin(), kept.end(),
                            [&](const Value& name) { return name.as_string() == file; }),
             kept.end());
  kept.emplace_back(file);
  std::vector<std::string> surplus;
  while (options_.max_keep_ckpts() > 0 &&
         kept.size() > static_cast<size_t>(options_.max_keep_ckpts())) {
    surplus.push_back(kept.front().as_string());
    kept.erase(kept.begin());
  }
  write(runner, file, options_.save_optimizer(), options_.save_param_scheduler());
  replace_text_file(path_of("last_checkpoint"), file);
  // Only now: the reference removes the oldest before it writes, and a full disk then loses both.
  for (const std::string& old : surplus) {
    std::error_code ignored;
    std::filesystem::remove(path_of(old), ignored);
  }
}

void CheckpointHook::after_val_epoch(Runner& runner, Scalars& metrics) {
  if (metrics.empty()) return;
  bool better = false;
  for (const std::string& wanted : options_.save_best()) {
    const auto found = wanted == "auto" ? metrics.begin() : metrics.find(wanted);
    if (found == metrics.end()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : metrics) names.push_back(name);
      fail<ConfigError>(
          "CheckpointHook: save_best: no metric is named '{}'; the validation gives {}", wanted,
          fmt::join(names, ", "));
    }
    better = save_if_best(runner, found->first, found->second) || better;
  }
  // The regular file of this moment was written before the validation: a run that resumes from it
  // must know the best score too.
  const Value* kept = runner.run_info().find("kept_checkpoints");
  const int64_t done = by_epoch(runner) ? runner.progress().epoch : runner.progress().iter;
  const std::string present = regular_file(runner, done);
  if (better && kept && !kept->items().empty() && kept->items().back().as_string() == present) {
    write(runner, present, options_.save_optimizer(), options_.save_param_scheduler());
  }
}

bool CheckpointHook::save_if_best(Runner& runner, const std::string& metric, double value) {
  const bool larger = larger_is_better(metric);
  Value& info = runner.run_info();
  const std::string score_key = "best_score_" + metric;
  const std::string file_key = "best_checkpoint_" + metric;
  const Value* best = info.find(score_key);
  if (std::isnan(value)) return false;
  if (best && (larger ? value <= best->as_real() : value >= best->as_real())) return false;

  const Value* old = info.find(file_key);
  const std::string old_file = old ? old->as_string() : "";
  // During validation the counters stand at finished epochs and iterations.
  const Progress& progress = runner.progress();
  std::string safe = metric;
  std::replace(safe.begin(), safe.end(), '/', '_');
  const std::string file = by_epoch(runner)
                               ? fmt::format("best_{}_epoch_{}.pth", safe, progress.epoch)
                               : fmt::format("best_{}_iter_{}.pth", safe, progress.iter);
  info.set(score_key, value);
  info.set(file_key, file);
  write(runner, file, /*with_optimizer=*/false, /*with_schedulers=*/false);
  if (!old_file.empty() && old_file != file) {
    std::error_code ignored;
    std::filesystem::remove(path_of(old_file), ignored);
  }
  log_info("The best checkpoint with {:.4f} {} at {} {} is saved to {}.", value, metric,
           by_epoch(runner) ? progress.epoch : progress.iter, by_epoch(runner) ? "epoch" : "iter",
           file);
  return true;
}

}  // namespace polyak
