// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "polyak/averaging/model.h"

namespace polyak {

/// Recognises one model, and rejects all others, including one built later at the same address.
/// Keeps no module alive.
///
/// A model owned by a std::shared_ptr is recognised for as long as the owner lives. For a
/// TorchScript module, the object's memory is kept, so that no other object gets its address. A
/// module without a std::shared_ptr, such as a local variable, is known by its address only: code
/// that keeps its identity must compare its tensors too, as ModelBinding and KnownModel do.
class ModelIdentity {
 public:
  /// Refers to no model.
  ModelIdentity() = default;
  explicit ModelIdentity(const ModelRef& model);

  /// Whether the handle, whose model must be alive, refers to this model. Does not allocate, and
  /// writes nothing that threads share.
  bool is(const ModelRef& model) const {
    return address_ == model.identity() && !(has_owner_ && owner_.expired());
  }

  /// Whether the identity alone is enough for is(). Otherwise compare the model's tensors too.
  bool is_certain() const { return has_owner_ || kept_memory_ != nullptr; }

 private:
  const void* address_ = nullptr;
  bool has_owner_ = false;
  std::weak_ptr<const void> owner_;
  std::shared_ptr<const void> kept_memory_;
};

}  // namespace polyak
