// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/runtime/hook.h"

namespace polyak {

struct POLYAK_API ParamSchedulerHookOptions : Options {
  void visit(OptionVisitor&) override {}
};

/// Steps the parameter schedulers: those that count iterations after each iteration, those that
/// count epochs after each epoch.
class POLYAK_API ParamSchedulerHook : public Hook {
 public:
  /// There are no options.
  explicit ParamSchedulerHook(const ParamSchedulerHookOptions& /*options*/ = {}) {}

  std::string name() const override { return "ParamSchedulerHook"; }
  bool changes_checkpoints() const override { return true; }
  int priority() const override { return kLow; }

  void check_run(Runner& runner) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;
  void after_train_epoch(Runner& runner) override;
};

}  // namespace polyak
