// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "polyak/averaging/list_watch.h"
#include "polyak/averaging/model.h"
#include "polyak/averaging/model_identity.h"
#include "polyak/averaging/module_tree.h"
#include "polyak/averaging/slot.h"

namespace polyak {

/// Which model an average belongs to, and whether that model still has the same tensors.
class ModelBinding {
 public:
  /// Binds to the model in its current state.
  void bind(const ModelRef& model);

  /// Whether the handle refers to the bound model and none of its tensors or modules was replaced:
  /// then the slots' tensors are the model's. Call it while the slots hold all of the model's
  /// tensors: tensors are compared by address, and the address of a held tensor is not reused. Does
  /// not allocate.
  bool is_current(const ModelRef& model) const { return identity_.is(model) && tree_.is_current(); }

  /// Whether the handle refers to the bound model, whatever became of its layers. A module without
  /// an owner, which is known by its address alone, must still have one of the slots' tensors.
  bool is_of(const ModelRef& model, const Slots& slots,
             const std::vector<NamedTensor>& tensors) const;

  /// The model's class, for messages.
  const std::string& model_class() const { return model_class_; }

  /// Names tensors of a list that are no longer trained: an average of those says nothing about the
  /// model.
  /// @param look_at_gradients whether to compare gradients with those of the last such call too
  /// @return a warning, once; empty if there is nothing to report
  std::string orphans(const Slots& slots, int64_t steps, bool look_at_gradients);

 private:
  std::string model_class_;
  ModelIdentity identity_;
  ModuleTree tree_;
  std::unique_ptr<ListWatch> list_watch_;  // if the model is a list
  bool orphans_told_ = false;
};

}  // namespace polyak
