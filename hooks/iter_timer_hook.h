#pragma once

#include <chrono>
#include <string>

#include "polyak/runtime/hook.h"

namespace polyak {

struct POLYAK_API IterTimerHookOptions : Options {
  void visit(OptionVisitor&) override {}
};

/// Logs how long each iteration took, in seconds: `data_time` until the batch was there, `time` in
/// all.
class POLYAK_API IterTimerHook : public Hook {
 public:
  explicit IterTimerHook(const IterTimerHookOptions& /*options*/ = {}) {}

  std::string name() const override { return "IterTimerHook"; }

 protected:
  void before_epoch(Runner&, Stage) override { last_ = Clock::now(); }
  void before_iter(Runner& runner, Stage, int64_t) override;
  void after_iter(Runner& runner, Stage, int64_t) override;

 private:
  using Clock = std::chrono::steady_clock;
  double seconds() const { return std::chrono::duration<double>(Clock::now() - last_).count(); }
  Clock::time_point last_;
};

}  // namespace polyak
