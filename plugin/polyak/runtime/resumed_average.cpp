// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/resumed_average.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "polyak/core/log.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/run_checkpoint.h"

namespace polyak {
namespace {

/// Files store 1 as 1.0.
bool same_option(const Node& a, const Node& b) {
  return a.is_number() && b.is_number() ? a.as_double() == b.as_double() : a == b;
}

/// Whether a saved average has the rule and the options of an average of the run.
bool was_made_as(const AverageState& saved, const NamedAverage& item) {
  const Node own = item.average->rule_options();
  const Node defaults = item.average->rule_defaults();
  if (saved.rule != item.average->rule_name() || !saved.options.is_mapping()) return false;
  if (own.entries().size() < saved.options.entries().size()) return false;
  return std::all_of(own.entries().begin(), own.entries().end(), [&](const Node::Entry& option) {
    const Node* theirs = saved.options.find(option.first);
    // A run may be made longer.
    if (item.has_length_of_run && option.first == "max_iters") return theirs != nullptr;
    if (theirs) return same_option(option.second, *theirs);
    // An older version did not have the option, and did what its default says now.
    const Node* const unset = defaults.is_mapping() ? defaults.find(option.first) : nullptr;
    return unset && same_option(option.second, *unset);
  });
}

}  // namespace

std::string average_title(const std::string& name) {
  return name.empty() ? "the one without a name" : fmt::format("'{}'", name);
}

std::optional<std::string> find_resumed_average(const Value& checkpoint, const std::string& name,
                                                const std::vector<NamedAverage>& averages,
                                                const std::string& owner) {
  std::vector<std::string> left = averages_in(checkpoint);
  if (std::count(left.begin(), left.end(), name)) return name;
  std::vector<const NamedAverage*> without;  // averages whose name is not in the checkpoint
  for (const NamedAverage& item : averages) {
    const auto own = std::find(left.begin(), left.end(), item.name);
    own == left.end() ? without.push_back(&item) : static_cast<void>(left.erase(own));
  }
  if (left.empty()) return std::nullopt;
  std::vector<std::string> fitting;
  size_t takers = 0;
  for (const std::string& other : left) {
    const AverageState saved = recorded_average(checkpoint, other);
    const auto fits = [&](const NamedAverage* item) { return was_made_as(saved, *item); };
    const auto mine = std::find_if(without.begin(), without.end(),
                                   [&](const NamedAverage* item) { return item->name == name; });
    if (mine == without.end() || !fits(*mine)) continue;
    fitting.push_back(other);
    takers = static_cast<size_t>(std::count_if(without.begin(), without.end(), fits));
  }
  if (fitting.size() == 1 && takers == 1) return fitting.front();
  std::vector<std::string> names(left.size());
  std::transform(left.begin(), left.end(), names.begin(), average_title);
  fail<CheckpointError>(
      "{0}: the checkpoint holds no average {1}; it holds {2}, which no {0} of this config "
      "keeps and which {3}; set this {0}'s name to that of the average to continue, or remove "
      "the {0} to drop it",
      owner, name.empty() ? "without a name" : fmt::format("named '{}'", name),
      fmt::join(names, ", "),
      fitting.empty() ? "was made by another rule or other options" : "fits more than once");
}

int64_t resumed_steps(const Value& checkpoint, const std::string& name, const Progress& progress,
                      bool counts_iterations, const std::string& owner) {
  const int64_t steps = average_steps(checkpoint, name);
  const Value* record = average_record(checkpoint, name);
  const Value* count = record ? record->find("count") : nullptr;
  if (is_polyaks(checkpoint) && !count) return steps;  // 0.1 did not say
  const bool theirs = !count || count->as_string() == "iterations";
  if (theirs == counts_iterations || progress.accumulative_counts == 1) return steps;

  const int64_t iters = checkpoint.at("meta").at("iter").as_int();
  const Value* made =
      is_polyaks(checkpoint) ? checkpoint.at("polyak").find("optimizer_steps") : nullptr;
  const int64_t optimizer_steps = made ? made->as_int() : progress.steps_in(iters);
  const int64_t all = theirs ? iters : optimizer_steps;
  if (steps > all) {
    fail<CheckpointError>(
        "{}.steps is {}, more than the {} {} of the run; it cannot be converted to {}",
        average_key(name), steps, all, theirs ? "iterations" : "optimizer steps",
        theirs ? "optimizer steps" : "iterations");
  }
  // The average covers the last `steps` of its clock.
  const int64_t converted =
      theirs ? optimizer_steps - progress.steps_in(iters - steps)
             : iters - std::min(iters, (optimizer_steps - steps) * progress.accumulative_counts);
  log_info("{}: the checkpoint's {} counts {} {}; it continues from {} {}", owner,
           average_key(name), steps, theirs ? "iterations" : "optimizer steps", converted,
           theirs ? "optimizer steps" : "iterations");
  return converted;
}

}  // namespace polyak
