// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/known_model.h"

#include <algorithm>
#include <unordered_set>

namespace polyak {

KnownModel::KnownModel(const ModelRef& model) : identity_(model) {
  if (identity_.is_certain()) return;
  for (const NamedTensor& item : model.tensors()) {
    tensors_.emplace_back(item.tensor.getIntrusivePtr());
  }
}

bool KnownModel::is(const ModelRef& model) const {
  if (!identity_.is(model)) return false;
  if (identity_.is_certain()) return true;
  // Addresses suffice: a weak reference keeps a tensor's address from being reused.
  std::unordered_set<const void*> now;
  for (const NamedTensor& item : model.tensors()) now.insert(item.tensor.unsafeGetTensorImpl());
  const auto same = std::count_if(tensors_.begin(), tensors_.end(), [&](const WeakTensor& tensor) {
    return now.count(tensor._unsafe_get_target()) != 0;
  });
  return 2 * same >= static_cast<std::ptrdiff_t>(tensors_.size());
}

}  // namespace polyak
