// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "polyak/averaging/model.h"

namespace polyak {

/// Tells the model that it was made of from every other one, also from one that was built later at
/// the same address, and keeps no module alive.
///
/// What a std::shared_ptr owns is that model for as long as the owner lives; of a TorchScript
/// module the object's memory is kept, so that no other can come to its address. A module that no
/// std::shared_ptr owns, such as a local variable, is known by its address alone: who keeps the
/// identity of one must look at its tensors too, as ModelBinding and KnownModel do.
class ModelIdentity {
 public:
  /// Of no model.
  ModelIdentity() = default;
  explicit ModelIdentity(const ModelRef& model);

  /// Whether the handle, which must be to a living model, is to this one. Allocates nothing and
  /// writes nothing that threads share.
  bool is(const ModelRef& model) const {
    return address_ == model.identity() && !(has_owner_ && owner_.expired());
  }

  /// Whether is() needs nothing but the identity. Otherwise the model's tensors must tell.
  bool is_certain() const { return has_owner_ || kept_memory_ != nullptr; }

 private:
  const void* address_ = nullptr;
  bool has_owner_ = false;
  std::weak_ptr<const void> owner_;
  std::shared_ptr<const void> kept_memory_;
};

}  // namespace polyak
