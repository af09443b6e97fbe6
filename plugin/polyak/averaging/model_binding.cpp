// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/model_binding.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_set>

namespace polyak {
namespace {

// Parts of a model that are trained in turns have no gradient for a few steps.
constexpr int64_t kStepsOfSilence = 32;

}  // namespace

void ModelBinding::bind(const ModelRef& model) {
  model_class_ = model.class_name();
  identity_ = ModelIdentity(model);
  tree_ = model.nn_module() ? ModuleTree(*model.nn_module())
          : model.script()  ? ModuleTree(*model.script())
                            : ModuleTree();
  list_watch_ = model.is_list() ? std::make_unique<ListWatch>(model.list_->averages) : nullptr;
}

bool ModelBinding::is_of(const ModelRef& model, const Slots& slots,
                         const std::vector<NamedTensor>& tensors) const {
  if (!identity_.is(model)) return false;
  if (identity_.is_certain()) return true;
  std::unordered_set<const void*> ours;  // the slots keep them alive
  for (const Slot& slot : slots) ours.insert(slot.source.unsafeGetTensorImpl());
  return std::any_of(tensors.begin(), tensors.end(), [&](const NamedTensor& item) {
    return ours.count(item.tensor.unsafeGetTensorImpl()) != 0;
  });
}

std::string ModelBinding::orphans(const Slots& slots, int64_t steps, bool look_at_gradients) {
  if (!list_watch_ || orphans_told_) return {};
  std::vector<std::string> names = list_watch_->held_by_nobody_else(slots);
  const bool by_gradient = names.empty();
  if (look_at_gradients) {
    const std::vector<std::string> more = list_watch_->without_new_gradient(slots);
    if (names.empty() && steps >= kStepsOfSilence) names = more;
  }
  if (names.empty()) return {};
  orphans_told_ = true;
  return fmt::format(
      "{} of the list of tensors {}: if the optimizer has a new tensor instead, make a new "
      "ModelRef of the list and a new average, and load the old one's values with load_state()",
      fmt::join(names, ", "),
      by_gradient ? fmt::format("got no new gradient in {} updates, while others did", steps / 2)
                  : "is held by nobody else, so it is no longer trained");
}

}  // namespace polyak
