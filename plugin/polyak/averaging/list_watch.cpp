// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/list_watch.h"

#include <ATen/ATen.h>

namespace polyak {
namespace {

bool is_trainable(const at::Tensor& tensor) {
  return tensor.is_leaf() && tensor.requires_grad();
}

}  // namespace

std::vector<std::string> ListWatch::held_by_nobody_else(const Slots& slots) const {
  std::vector<std::string> names;
  const size_t averages = static_cast<size_t>(averages_.use_count()) - 1;
  for (const Slot& slot : slots) {
    const size_t ours = 1 + slot.aliases.size() + averages;
    // The elements of a view belong to another tensor.
    if (is_trainable(slot.source) && slot.source.use_count() <= ours && slot.source.has_storage() &&
        slot.source.storage().use_count() == 1) {
      names.push_back(slot.name);
    }
  }
  return names;
}

std::vector<std::string> ListWatch::without_new_gradient(const Slots& slots) {
  gradients_.resize(slots.size());
  bool any_new = false;
  std::vector<std::string> names;
  for (size_t i = 0; i < slots.size(); ++i) {
    Gradient& seen = gradients_[i];
    const at::Tensor now = is_trainable(slots[i].source) ? slots[i].source.grad() : at::Tensor();
    if (!now.defined()) {
      seen.tensor.reset();
      continue;
    }
    const auto version = static_cast<uint32_t>(now._version());
    const bool is_known = seen.tensor.has_value();
    const bool stayed = is_known && version == seen.version &&
                        seen.tensor->_unsafe_get_target() == now.unsafeGetTensorImpl();
    if (stayed) {
      if (seen.trained) names.push_back(slots[i].name);
      continue;
    }
    seen.trained = seen.trained || is_known;
    any_new = any_new || is_known;
    seen.tensor.emplace(now.getIntrusivePtr());
    seen.version = version;
  }
  if (!any_new) names.clear();
  return names;
}

}  // namespace polyak
