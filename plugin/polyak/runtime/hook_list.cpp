// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/hook_list.h"

#include <algorithm>
#include <exception>

#include "polyak/core/log.h"
#include "polyak/runtime/runner.h"

namespace polyak {

void HookList::add(std::shared_ptr<Hook> hook, std::optional<int> priority) {
  const int own = priority.value_or(hook->priority());
  auto after =
      std::upper_bound(entries_.begin(), entries_.end(), own,
                       [](int value, const Entry& entry) { return value < entry.priority; });
  entries_.insert(after, Entry{std::move(hook), own});
}

void HookList::add(const Node& node, const Registry<Hook>& registry, const Hook::Context& context) {
  std::optional<int> priority;
  if (const Node* given = node.is_mapping() ? node.find("priority") : nullptr;
      given && !given->is_null()) {
    priority = parse_priority(*given);
  }
  add(registry.build(node.is_mapping() ? node.without({"priority"}) : node, context), priority);
}

std::vector<std::string> HookList::lines() const {
  std::vector<std::string> lines;
  for (const Entry& entry : entries_) {
    lines.push_back(fmt::format("({:<12}) {}", priority_name(entry.priority), entry.hook->name()));
  }
  return lines;
}

EvaluationScope::EvaluationScope(Runner& runner, HookList& hooks, Hook::Stage stage)
    : runner_(runner), hooks_(hooks), stage_(stage) {
  const bool val = stage == Hook::Stage::val;
  try {
    hooks.call([&](Hook& hook) { val ? hook.before_val(runner) : hook.before_test(runner); });
    hooks.call(
        [&](Hook& hook) { val ? hook.before_val_epoch(runner) : hook.before_test_epoch(runner); });
  } catch (...) {  // a hook of a later priority threw: those before it must be undone
    break_off();
    throw;
  }
  open_ = true;
}

EvaluationScope::~EvaluationScope() {
  if (open_) break_off();
}

void EvaluationScope::before_iter(int64_t batch) {
  hooks_.call([&](Hook& hook) {
    stage_ == Hook::Stage::val ? hook.before_val_iter(runner_, batch)
                               : hook.before_test_iter(runner_, batch);
  });
}

void EvaluationScope::after_iter(int64_t batch) {
  hooks_.call([&](Hook& hook) {
    stage_ == Hook::Stage::val ? hook.after_val_iter(runner_, batch)
                               : hook.after_test_iter(runner_, batch);
  });
}

void EvaluationScope::finish(Scalars& metrics) {
  const bool val = stage_ == Hook::Stage::val;
  // Before the hooks, so that a checkpoint which one of them writes says that this one is done.
  if (val) note_validation(runner_.progress().epoch, runner_.progress().iter);
  hooks_.call([&](Hook& hook) {
    val ? hook.after_val_epoch(runner_, metrics) : hook.after_test_epoch(runner_, metrics);
  });
  hooks_.call([&](Hook& hook) { val ? hook.after_val(runner_) : hook.after_test(runner_); });
  open_ = false;
}

void EvaluationScope::note_validation(int64_t epoch, int64_t iter) {
  if (const Value* before = runner_.run_info().find("validated")) validated_before_ = *before;
  Value done = Value::dict();
  done.set("epoch", epoch);
  done.set("iter", iter);
  runner_.run_info().set("validated", std::move(done));
  noted_ = true;
}

void EvaluationScope::break_off() noexcept {
  const bool val = stage_ == Hook::Stage::val;
  if (noted_) {
    validated_before_ ? static_cast<void>(runner_.run_info().set("validated", *validated_before_))
                      : static_cast<void>(runner_.run_info().erase("validated"));
  }
  auto undo = [&](auto&& point) {
    hooks_.call([&](Hook& hook) {
      try {
        point(hook);
      } catch (const std::exception& error) {  // the exception that brought us here matters more
        log_warning("{} failed while an evaluation was broken off: {}", hook.name(),
                    first_line(error));
      }
    });
  };
  Scalars none;
  undo([&](Hook& hook) {
    val ? hook.after_val_epoch(runner_, none) : hook.after_test_epoch(runner_, none);
  });
  undo([&](Hook& hook) { val ? hook.after_val(runner_) : hook.after_test(runner_); });
}

}  // namespace polyak
