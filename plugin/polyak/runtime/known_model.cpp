// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/known_model.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <unordered_set>

namespace polyak {
namespace {

std::weak_ptr<const void> owner_of(const ModelRef& model) {
  if (!model.nn_module()) return {};
  return model.nn_module()->weak_from_this();
}

}  // namespace

KnownModel::KnownModel(const ModelRef& model)
    : address_(model.identity()), owner_(owner_of(model)), owned_(!owner_.expired()) {
  for (const NamedTensor& item : model.tensors()) {
    tensors_.emplace_back(item.tensor.getIntrusivePtr());
  }
}

bool KnownModel::is(const ModelRef& model) const {
  if (model.identity() != address_) return false;
  if (owned_) return !owner_.expired();
  // Addresses suffice: a weak reference keeps a tensor's address from being reused.
  std::unordered_set<const void*> now;
  for (const NamedTensor& item : model.tensors()) now.insert(item.tensor.unsafeGetTensorImpl());
  const auto same = std::count_if(tensors_.begin(), tensors_.end(), [&](const WeakTensor& tensor) {
    return now.count(tensor._unsafe_get_target()) != 0;
  });
  return 2 * same >= static_cast<std::ptrdiff_t>(tensors_.size());
}

}  // namespace polyak
