// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/runtime/hook.h"

namespace polyak {

struct POLYAK_API CheckInvalidLossHookOptions : Options {
  /// Iterations from one check to the next, at least 1.
  CheckInvalidLossHookOptions& interval(int64_t value) { return interval_ = value, *this; }
  int64_t interval() const { return interval_; }

  void visit(OptionVisitor& visitor) override;

 private:
  int64_t interval_ = 50;
};

/// Ends training with an error at a loss that is not finite, as mmdet's hook of this name does. The
/// files that were written before stay.
class POLYAK_API CheckInvalidLossHook : public Hook {
 public:
  /// @throws ConfigError
  explicit CheckInvalidLossHook(const CheckInvalidLossHookOptions& options);

  std::string name() const override { return "CheckInvalidLossHook"; }
  int priority() const override { return kHigh; }  // before a hook averages or saves the weights
  void before_train(Runner& runner) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;

 private:
  void look_at(int64_t iteration, const Scalars& outputs);

  CheckInvalidLossHookOptions options_;
  int64_t steps_seen_ = 0;
  std::string problem_;  // a loss that was not finite since the last step
};

}  // namespace polyak
