// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "polyak/attach/config.h"
#include "polyak/core/export.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_loop.h"
#include "polyak/runtime/runner.h"

namespace polyak {

/// The runner of a compiled program: tensors that an optimizer steps, and the number of its steps.
class AttachedRunner : public Runner {
 public:
  /// Builds the config's hooks.
  /// @param tensors with internal names, since the program's names may become known later or never
  /// @param steps of the optimizer so far
  /// @throws ConfigError for an invalid hook or average
  AttachedRunner(const AttachConfig& config, const Catalog& catalog,
                 std::vector<NamedTensor> tensors, int64_t steps = 0);

  ModelRef model() override { return model_; }
  const Progress& progress() const override { return loop_.progress(); }
  HookList& hooks() override { return hooks_; }
  void request_stop() override {}

  /// Adds tensors: the list must contain all previous ones under their names.
  void set_tensors(std::vector<NamedTensor> tensors);
  /// Counts an optimizer step, which is one iteration for hooks.
  void step();
  /// A checkpoint of the current state, including the hooks' entries.
  Value checkpoint();

 private:
  ModelRef model_;
  HookList hooks_;
  RunLoop loop_{*this};
};

/// Checks the config's hooks by building them for a model of one number.
/// @throws ConfigError
POLYAK_API void check_attached_hooks(const AttachConfig& config, const Catalog& catalog);

}  // namespace polyak
