// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "polyak/averaging/list_watch.h"
#include "polyak/averaging/model.h"
#include "polyak/averaging/model_identity.h"
#include "polyak/averaging/module_tree.h"
#include "polyak/averaging/slot.h"

namespace polyak {

/// To which model an average belongs, and whether that still consists of the tensors that it had.
class ModelBinding {
 public:
  /// Takes the model as it is now.
  void bind(const ModelRef& model);

  /// Whether the handle is to the model bound to and no tensor or module of it was replaced: then
  /// the slots' tensors are the model's. To be asked while the slots hold all its tensors, since
  /// tensors are compared by address, and a held one's cannot be another's. Allocates nothing.
  bool is_current(const ModelRef& model) const { return identity_.is(model) && tree_.is_current(); }

  /// The model's class, for messages.
  const std::string& model_class() const { return model_class_; }

  /// Names tensors of a list that nothing trains any more: an average of those says nothing about
  /// the model.
  /// @param look_at_gradients whether gradients of a while are to be compared too
  /// @return what to warn of, once; empty where there is nothing to say
  std::string orphans(const Slots& slots, int64_t steps, bool look_at_gradients);

 private:
  std::string model_class_;
  ModelIdentity identity_;
  ModuleTree tree_;
  std::unique_ptr<ListWatch> list_watch_;  // where the model is a list
  bool orphans_told_ = false;
};

}  // namespace polyak
