// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/runtime/hook.h"

namespace polyak {

struct POLYAK_API RuntimeInfoHookOptions : Options {
  void visit(OptionVisitor&) override {}
};

/// Logs the learning rate and losses of every iteration. Runs before all other hooks.
class POLYAK_API RuntimeInfoHook : public Hook {
 public:
  /// There are no options.
  explicit RuntimeInfoHook(const RuntimeInfoHookOptions& /*options*/ = {}) {}

  std::string name() const override { return "RuntimeInfoHook"; }
  int priority() const override { return kVeryHigh; }

  void before_train_iter(Runner& runner, int64_t batch) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;
};

}  // namespace polyak
