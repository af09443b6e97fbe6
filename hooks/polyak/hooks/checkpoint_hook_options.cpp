// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <algorithm>

#include "polyak/hooks/checkpoint_hook.h"
#include "polyak/runtime/metric_direction.h"
#include "polyak/runtime/publish.h"

namespace polyak {

void CheckpointHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("interval", &interval_,
              "Save every so many epochs or iterations; -1: only at the end.", steps_from(-1));
  visitor.key("by_epoch", &by_epoch_,
              "Count epochs instead of iterations; null: like the training loop.");
  visitor.key("save_optimizer", &save_optimizer_,
              "Save the optimizer's state, which resuming requires.");
  visitor.key("save_param_scheduler", &save_param_scheduler_,
              "Save the schedulers' state, which resuming requires.");
  visitor.key("out_dir", &out_dir_, "Folder for checkpoints; null: the work_dir.");
  visitor.key("max_keep_ckpts", &max_keep_ckpts_,
              "How many of the newest regular checkpoints to keep; -1: all.", steps_from(-1));
  visitor.key("save_last", &save_last_, "Always save at the end of training.");
  visitor.key("save_begin", &save_begin_, "The epoch or iteration at which saving begins.",
              steps_from(0));
  visitor.key("save_best", &save_best_,
              "Metrics whose best checkpoints are kept; 'auto': the first metric.");
  visitor.key("rule", &rule_,
              "'greater' or 'less' for each of save_best; empty: inferred from the name.");
  visitor.choice(
      "on_save_error", &on_save_error_, {"stop", "continue"},
      "What follows if a file cannot be written, for example on a full disk; continue: a "
      "warning.");
  visitor.key("async_save", &async_save_,
              "Write files in a thread, from a copy of the values, while training goes on.");
  visitor.block<PublishOptions>(
      "published", &published_,
      "Also write best files and the last one for deployment, into the folder published: "
      "{format: safetensors or pth, weights: averaged, raw or a name, dtype, keys}.");
}

void CheckpointHookOptions::validate() const {
  if (!published_.is_null()) {
    PublishOptions published;
    read_options(published_, published, "published");
  }
  if (interval_ == 0 || interval_ < -1) {
    fail_option("interval", "must be at least 1, or -1 for only the last, got {}", interval_);
  }
  if (max_keep_ckpts_ == 0 || max_keep_ckpts_ < -1) {
    fail_option("max_keep_ckpts", "must be at least 1, or -1 for all, got {}", max_keep_ckpts_);
  }
  if (!rule_.empty() && rule_.size() != save_best_.size()) {
    fail_option("rule", "has {} entries, but save_best has {}", rule_.size(), save_best_.size());
  }
  for (const std::string& rule : rule_) {
    if (rule != "greater" && rule != "less") {
      fail_option("rule", "must be 'greater' or 'less', got '{}'", rule);
    }
  }
  if (save_best_.size() > 1 && std::count(save_best_.begin(), save_best_.end(), "auto")) {
    fail_option("save_best", "'auto' cannot be combined with other metrics, got {}",
                fmt::join(save_best_, ", "));
  }
  for (const std::string& metric : save_best_) {
    if (rule_.empty() && metric != "auto" && !polyak::larger_is_better(metric)) {
      fail_option("save_best",
                  "it is not known whether larger values of '{}' are better; set rule: greater "
                  "or rule: less",
                  metric);
    }
  }
}

bool CheckpointHookOptions::larger_is_better(const std::string& metric) const {
  const auto& wanted = save_best_;
  const auto place = std::find(wanted.begin(), wanted.end(), metric);
  if (!rule_.empty()) {
    return rule_[place == wanted.end() ? 0 : place - wanted.begin()] == "greater";
  }
  return polyak::larger_is_better(metric).value_or(true);
}

}  // namespace polyak
