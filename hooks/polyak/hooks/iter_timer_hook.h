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

/// Logs the duration of each iteration in seconds: `data_time` until the batch was ready, `time` in
/// total. If a loop does not report when epochs and iterations begin, it omits what is unknown:
/// `data_time`, and the `time` of an epoch's first iteration.
class POLYAK_API IterTimerHook : public Hook {
 public:
  /// There are no options.
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
  std::optional<Clock::time_point> last_;   // begin of the iteration
  std::optional<Clock::time_point> train_;  // of the training iteration, during an evaluation
  Clock::time_point evaluation_;            // begin of the evaluation
};

}  // namespace polyak
