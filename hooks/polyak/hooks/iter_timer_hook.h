// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "polyak/runtime/hook.h"

namespace polyak {

struct POLYAK_API IterTimerHookOptions : Options {
  void visit(OptionVisitor&) override {}
};

/// Logs how long each iteration took, in seconds: `data_time` until the batch was there, `time` in
/// all. Where a loop does not tell when an epoch or an iteration begins, what cannot be known is
/// left out: `data_time`, and the `time` of an epoch's first iteration.
class POLYAK_API IterTimerHook : public Hook {
 public:
  explicit IterTimerHook(const IterTimerHookOptions& /*options*/ = {}) {}

  std::string name() const override { return "IterTimerHook"; }

 protected:
  void before_epoch(Runner& runner, Stage stage) override;
  void after_epoch(Runner&, Stage stage) override;
  void before_iter(Runner& runner, Stage, int64_t) override;
  void after_iter(Runner& runner, Stage, int64_t) override;

 private:
  using Clock = std::chrono::steady_clock;
  double seconds() const;
  std::optional<Clock::time_point> last_;   // where the iteration began
  std::optional<Clock::time_point> train_;  // the same of training, while an evaluation runs
  Clock::time_point evaluation_;            // where that began
};

}  // namespace polyak
