// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/evaluation_scope.h"

#include <exception>

#include "polyak/core/log.h"
#include "polyak/runtime/runner.h"

namespace polyak {

EvaluationScope::EvaluationScope(Runner& runner, HookList& hooks, Hook::Stage stage)
    : runner_(runner), hooks_(hooks), stage_(stage) {
  const bool val = stage == Hook::Stage::val;
  try {
    hooks.call([&](Hook& hook) { val ? hook.before_val(runner) : hook.before_test(runner); });
    hooks.call(
        [&](Hook& hook) { val ? hook.before_val_epoch(runner) : hook.before_test_epoch(runner); });
  } catch (...) {  // a later hook threw: the earlier ones must be undone
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
  // Before the hooks, so that a checkpoint written by one of them says that this one is done.
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
      } catch (const std::exception& error) {  // the original exception matters more
        log_warning("{} failed while an evaluation was interrupted: {}", hook.name(),
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

bool is_validated(Runner& runner) {
  const Value* done = runner.run_info().find("validated");
  return done && done->at("epoch").as_int() == runner.progress().epoch &&
         done->at("iter").as_int() == runner.progress().iter;
}

}  // namespace polyak
