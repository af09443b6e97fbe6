// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/progress.h"

namespace polyak {

/// One validation or test pass: the constructor calls before_val and before_val_epoch, finish()
/// calls after_val_epoch and after_val. After an exception, the destructor calls the after_* points
/// with empty metrics for every hook whose before_* point was called, so that no hook leaves the
/// model changed. `validated` in the run_info holds the epoch and iteration of the last finished
/// validation.
class POLYAK_API EvaluationScope {
 public:
  /// @param stage val or test
  EvaluationScope(Runner& runner, HookList& hooks, Hook::Stage stage);

  ~EvaluationScope();
  EvaluationScope(const EvaluationScope&) = delete;
  EvaluationScope& operator=(const EvaluationScope&) = delete;

  /// Calls the points before and after a batch, counted from 0.
  void before_iter(int64_t batch);
  void after_iter(int64_t batch);
  /// Passes `metrics` to the hooks, which may add to them.
  void finish(Scalars& metrics);

 private:
  void note_validation(int64_t epoch, int64_t iter);
  void break_off() noexcept;

  Runner& runner_;
  HookList& hooks_;
  Hook::Stage stage_;
  bool open_ = false;
  bool noted_ = false;                     // run_info names this validation as the last one
  std::optional<Value> validated_before_;  // and this one before that
};

/// Whether the last finished validation was at the run's current position.
POLYAK_API bool is_validated(Runner& runner);

}  // namespace polyak
