// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/hook.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "polyak/runtime/runner.h"
#include "polyak/runtime/vis_backend.h"

namespace polyak {
namespace {

struct NamedPriority {
  const char* name;
  int value;
};
constexpr std::array<NamedPriority, 9> kPriorities{{{"HIGHEST", kHighest},
                                                    {"VERY_HIGH", kVeryHigh},
                                                    {"HIGH", kHigh},
                                                    {"ABOVE_NORMAL", kAboveNormal},
                                                    {"NORMAL", kNormal},
                                                    {"BELOW_NORMAL", kBelowNormal},
                                                    {"LOW", kLow},
                                                    {"VERY_LOW", kVeryLow},
                                                    {"LOWEST", kLowest}}};

bool every_n(int64_t done, int64_t n, int64_t start) {
  return n > 0 && done >= start && (done - start) % n == 0;
}

}  // namespace

Hook::~Hook() = default;
RunningStatistics::~RunningStatistics() = default;
TrainingForward::~TrainingForward() = default;
Schedules::~Schedules() = default;
CheckpointSource::~CheckpointSource() = default;
Runner::~Runner() = default;

VisBackend::~VisBackend() = default;
Interrupted::~Interrupted() = default;

int parse_priority(const Node& node) {
  if (node.is_int()) {
    const int64_t value = node.as_int();
    if (value < kHighest || value > kLowest) {
      node.fail(
          fmt::format("a priority must be from {} to {}, got {}", +kHighest, +kLowest, value));
    }
    return static_cast<int>(value);
  }
  std::string name = node.as_string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  std::string known;
  for (const NamedPriority& priority : kPriorities) {
    if (name == priority.name) return priority.value;
    known += known.empty() ? priority.name : fmt::format(", {}", priority.name);
  }
  node.fail(fmt::format("no priority is named '{}'; use one of {}, or an integer from 0 to 100",
                        node.text(), known));
}

void HookKeys::visit(OptionVisitor& visitor) {
  visitor.any("priority", &priority, "name or integer or null",
              "When it is called: a name such as NORMAL, or 0 (first) to 100; null: its own.");
}

void HookKeys::validate() const {
  if (!priority.is_null()) parse_priority(priority);
}

std::string priority_name(int priority) {
  for (const NamedPriority& named : kPriorities) {
    if (priority == named.value) return named.name;
  }
  return std::to_string(priority);
}

bool Hook::every_n_epochs(const Runner& runner, int64_t n, int64_t start) {
  return every_n(runner.progress().epoch + 1, n, start);
}

bool Hook::every_n_train_iters(const Runner& runner, int64_t n, int64_t start) {
  return every_n(runner.progress().iter + 1, n, start);
}

bool Hook::every_n_inner_iters(int64_t batch, int64_t n) {
  return every_n(batch + 1, n, 0);
}

bool Hook::end_of_epoch(const Runner& runner, int64_t batch) {
  return batch + 1 == runner.progress().epoch_length;
}

bool Hook::is_last_train_epoch(const Runner& runner) {
  return runner.progress().epoch + 1 == runner.progress().max_epochs;
}

bool Hook::is_last_train_iter(const Runner& runner) {
  return runner.progress().iter + 1 == runner.progress().max_iters;
}

const Scalars& Runner::logged() const {
  static const Scalars& none = *new Scalars;  // never destroyed, because threads may outlive main
  return none;
}

Scalars Runner::validate(const std::string& /*suffix*/) {
  fail<Error>("this runner cannot evaluate twice; do not use evaluate_on_origin or named averages");
}

bool CheckpointSource::can_resume_from(const Value& checkpoint) const {
  return checkpoint.contains("meta");
}

}  // namespace polyak
