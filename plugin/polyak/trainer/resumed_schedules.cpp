// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/resumed_schedules.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string>

#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/optim/saved_numbers.h"

namespace polyak {
namespace {

/// MMEngine's `end` for a schedule without one.
constexpr int64_t kNoEnd = 1000000000;

struct Kind {
  const char* name;
  std::vector<const char*> keys;
};

/// The first kind whose keys are all present.
const std::vector<Kind>& kinds() {
  static const std::vector<Kind> kKinds = {{"CosineRestart", {"restart_weights"}},
                                           {"CosineAnnealing", {"T_max"}},
                                           {"Linear", {"start_factor", "end_factor"}},
                                           {"SWALR", {"swa_lr"}},
                                           {"Step", {"step_size", "gamma"}},
                                           {"MultiStep", {"milestones", "gamma"}},
                                           {"Poly", {"power"}},
                                           {"Constant", {"factor", "total_iters"}},
                                           {"ReduceOnPlateau", {"patience"}},
                                           {"OneCycle", {"total_steps"}},
                                           {"Exponential", {"gamma"}}};
  return kKinds;
}

/// "" for a state without settings, written by 0.1.
std::string kind_of(const Value& state) {
  for (const Kind& kind : kinds()) {
    const bool has_all = std::all_of(kind.keys.begin(), kind.keys.end(),
                                     [&](const char* key) { return state.contains(key); });
    if (has_all) return kind.name;
  }
  return "";
}

/// A state as shown in messages: "Linear of lr (by_epoch true, begin 0)".
std::string schedule_text(const Value& state) {
  const std::string kind = kind_of(state);
  return fmt::format("{} of {} (by_epoch {}, begin {})", kind.empty() ? "one" : kind,
                     state.at("param_name").as_string(), state.at("by_epoch").as_bool(),
                     state.at("begin").as_int());
}

bool same_schedule(const Value& ours, const Value& theirs) {
  const std::string kind = kind_of(theirs);
  return (kind.empty() || kind == kind_of(ours)) &&
         ours.at("param_name").as_string() == theirs.at("param_name").as_string() &&
         ours.at("by_epoch").as_bool() == theirs.at("by_epoch").as_bool() &&
         ours.at("begin").as_int() == theirs.at("begin").as_int();
}

/// "[5, 9]" of MMEngine's {5: 1, 9: 1}: how often each milestone is listed.
std::string milestones_of(const Value& counts) {
  std::vector<int64_t> milestones;
  for (const auto& [key, count] : counts.entries()) {
    milestones.insert(milestones.end(),
                      static_cast<size_t>(std::clamp<int64_t>(count.as_int(), 0, 100)),
                      key.as_int());
  }
  std::sort(milestones.begin(), milestones.end());
  return fmt::format("[{}]", fmt::join(milestones, ", "));
}

/// "end 5 (was 3)" for each number that differs from the checkpoint's.
std::vector<std::string> changes(const Value& ours, const Value& theirs) {
  std::vector<std::string> found;
  for (const auto& [key, value] : ours.entries()) {
    const std::string& name = key.as_string();
    const Value* other = theirs.find(key);
    if (!other || name == "last_step" || name == "_global_step" || name == "base_values") continue;
    if (name == "milestones" && value.is_dict() && other->is_dict()) {
      const std::string own = milestones_of(value), before = milestones_of(*other);
      if (own != before) found.push_back(fmt::format("milestones {} (was {})", own, before));
    }
    if (!is_number(value) || !is_number(*other)) continue;
    const bool no_end = (name == "end" || name == "T_max" || name == "total_iters") &&
                        other->as_real() >= static_cast<double>(kNoEnd - 1);
    if (no_end || same_number(value, *other)) continue;
    found.push_back(fmt::format("{} {} (was {})", name, text_of(value), text_of(*other)));
  }
  return found;
}

}  // namespace

std::vector<Value> match_schedules(const std::vector<std::shared_ptr<ParamScheduler>>& schedulers,
                                   const Value& saved) {
  if (saved.kind() != Value::Kind::list) {
    fail<CheckpointError>("param_schedulers: is a {}, expected a list: one optimizer's schedules",
                          saved.kind_name());
  }
  std::vector<const Value*> left;
  for (const Value& state : saved.items()) {
    for (const char* key : {"param_name", "by_epoch", "begin", "last_step", "_global_step"}) {
      if (state.is_dict() && state.contains(key)) continue;
      fail<CheckpointError>("param_schedulers[{}]: has no '{}'", left.size(), key);
    }
    left.push_back(&state);
  }
  std::vector<Value> result;
  std::vector<std::string> alone, changed;
  for (const auto& scheduler : schedulers) {
    const Value ours = scheduler->state_dict();
    const auto found = std::find_if(left.begin(), left.end(), [&](const Value* theirs) {
      return same_schedule(ours, *theirs);
    });
    if (found == left.end()) {
      alone.push_back(schedule_text(ours));
      continue;
    }
    const std::vector<std::string> differences = changes(ours, **found);
    if (!differences.empty()) {
      changed.push_back(fmt::format("{}: {}", schedule_text(ours), fmt::join(differences, ", ")));
    }
    result.push_back(**found);
    left.erase(found);
  }
  if (!alone.empty() || !left.empty()) {
    std::vector<std::string> theirs;
    for (const Value* state : left) theirs.push_back(schedule_text(*state));
    fail<CheckpointError>(
        "param_schedulers: the checkpoint's differ from the config's; only the config has: {}; "
        "only the checkpoint has: {}; keep the same schedules, or set resume_options: config, "
        "which sets the rates by the config alone",
        alone.empty() ? "none" : list_names(alone), theirs.empty() ? "none" : list_names(theirs));
  }
  if (!changed.empty()) {
    log_info("resume: using the config's schedules: {}", fmt::join(changed, "; "));
  }
  return result;
}

}  // namespace polyak
