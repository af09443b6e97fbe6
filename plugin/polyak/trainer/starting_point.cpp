// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/starting_point.h"

#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/trainer/load_from.h"

namespace polyak {

bool is_resumable(const Value& checkpoint) {
  return checkpoint.contains("meta") && checkpoint.contains("optimizer");
}

StartingPoint find_start(const Node& config, const TrainConfig& options,
                         const std::string& work_dir, bool training) {
  StartingPoint start;
  const bool resume = options.resume && training;
  const LoadFromOptions from = read_load_from(options.load_from);
  start.file = from.path;
  start.names = from.rules();
  if (resume && start.file.empty()) {
    start.file = find_last_checkpoint(work_dir, out_dirs(config));
    if (start.file.empty()) {
      log_info("resume: {} contains no checkpoint yet; training starts from scratch", work_dir);
    }
  }
  if (start.file.empty()) return start;
  if (resume && (!from.key.empty() || !start.names.empty())) {
    options.load_from.fail(
        "key, prefix and exclude choose weights for a new run; a run is resumed from a whole "
        "checkpoint of the same model, so remove them, or resume");
  }
  start.checkpoint = read_checkpoint(start.file, from.key);
  start.resuming = resume;
  if (!resume || is_resumable(*start.checkpoint)) return start;
  fail<CheckpointError>(
      "{}: contains no '{}', so a run cannot be resumed from it; load_from without resume loads "
      "its weights",
      start.file, start.checkpoint->contains("meta") ? "optimizer" : "meta");
}

void check_place(const StartingPoint& start, const Progress& lengths) {
  const char* unit = lengths.by_epoch ? "epoch" : "iter";
  const int64_t done = start.checkpoint->at("meta").at(unit).as_int();
  const int64_t end = lengths.by_epoch ? lengths.max_epochs : lengths.max_iters;
  if (done <= end) return;
  fail<CheckpointError>("{}: is at {} {}, but this run ends at {}; raise train_cfg.max_{}s",
                        start.file, unit, done, end, unit);
}

bool may_lack_validation(const Value& checkpoint, const Progress& progress, bool validated) {
  if (progress.iter == 0 || validated) return false;
  const int64_t length = epoch_length_of(checkpoint, progress.epoch_length);
  return !progress.by_epoch || progress.iter == progress.epoch * length;
}

void log_start(const StartingPoint& start, const Value& checkpoint, const Progress& progress) {
  if (!start.resuming) {
    const std::vector<std::string> others = other_weights(checkpoint);
    if (others.empty()) {
      log_info("loaded {}", start.file);
    } else {
      log_info("loaded {}: its state_dict is used, {} is not", start.file, list_names(others));
    }
    return;
  }
  log_info("going on from {}: epoch {}, iteration {}", start.file, progress.epoch, progress.iter);
  const char* unit = progress.by_epoch ? "epoch" : "iter";
  const int64_t done = progress.by_epoch ? progress.epoch : progress.iter;
  const int64_t end = progress.by_epoch ? progress.max_epochs : progress.max_iters;
  if (done == end) {
    log_info("this run is finished: {} of {} {}s are done; raise train_cfg.max_{}s to train longer",
             done, end, unit, unit);
  }
}

}  // namespace polyak
