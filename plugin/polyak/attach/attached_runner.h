// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "polyak/attach/config.h"
#include "polyak/core/export.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/runner.h"

namespace polyak {

/// What hooks see of a compiled program: tensors that an optimizer steps, and how often it did.
class POLYAK_API AttachedRunner : public Runner {
 public:
  /// Builds the config's hooks. Tensors have names of our own, since a program's names may become
  /// known later, or never.
  /// @param steps that the optimizer took before
  /// @throws ConfigError for what is wrong with a hook or its average
  AttachedRunner(const AttachConfig& config, const Catalog& catalog,
                 std::vector<NamedTensor> tensors, int64_t steps = 0);

  Model model() override { return model_; }
  const Progress& progress() const override { return progress_; }
  HookList& hooks() override { return hooks_; }
  void request_stop() override {}
  Value make_checkpoint(bool with_optimizer, bool with_schedulers) override;

  /// More tensors came; those there were must be among them, under their names.
  void set_tensors(std::vector<NamedTensor> tensors);
  /// The optimizer stepped: one iteration, as hooks count.
  void step();
  /// What a checkpoint of this moment holds, the hooks' entries too.
  Value checkpoint();

 private:
  Model model_;
  Progress progress_;
  HookList hooks_;
};

/// Builds the config's hooks over a model of one number, so that what is wrong with them shows.
/// @throws ConfigError
POLYAK_API void check_attached_hooks(const AttachConfig& config, const Catalog& catalog);

}  // namespace polyak
