// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/group.h"

#include <torch/csrc/autograd/variable.h>

#include <algorithm>

#include "polyak/averaging/average_state.h"
#include "polyak/averaging/averaged_model.h"

namespace polyak {

void Group::add(NamedTensor item) {
  item.name = fmt::format("{}_{}", item.buffer ? "buffer" : "parameter", named_++);
  sizes_.push_back(item.tensor.sizes().vec());
  tensors.push_back(std::move(item));
  grown_ = true;
}

void Group::replace(const at::Tensor& before, const at::Tensor& now, bool continues) {
  const auto place = std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& item) {
    return item.tensor.is_same(before);
  });
  if (place == tensors.end()) return;
  place->tensor = now;
  sizes_[static_cast<size_t>(place - tensors.begin())] = now.sizes().vec();
  if (continues) {
    grown_ = true;
  } else {
    place->name = fmt::format("parameter_{}", named_++);
    replaced_ = true;
  }
}

std::vector<NamedTensor> Group::remove_orphans() {
  std::vector<NamedTensor> kept, orphans;
  std::vector<std::vector<int64_t>> sizes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (is_orphan(tensors[i].tensor)) {
      orphans.push_back(tensors[i]);
    } else {
      kept.push_back(tensors[i]);
      sizes.push_back(sizes_[i]);
    }
  }
  if (orphans.empty() || kept.empty()) return {};
  tensors = std::move(kept);
  sizes_ = std::move(sizes);
  replaced_ = true;
  return orphans;
}

void Group::tell_averages(const AttachConfig& config, const Catalog& catalog) {
  const bool grown = std::exchange(grown_, false), replaced = std::exchange(replaced_, false);
  if (!runner || (!grown && !replaced)) return;
  if (!replaced) return runner->set_tensors(tensors);
  // An average cannot drop a tensor, so new ones take over the tensors that continue.
  auto next = std::make_unique<AttachedRunner>(config, catalog, tensors, runner->progress().iter);
  for (const NamedAverage& before : runner->averages()) {
    if (!before.average->has_started()) continue;
    if (const auto after = next->averages().find(before.name)) {
      after->load_state_dict(before.average->state_dict());
    }
  }
  runner = std::move(next);
}

bool Group::is_orphan(const at::Tensor& tensor, size_t handles_beside) const {
  // One handle is in `tensors`, one in the runner's model, one in each average, and one in the node
  // that accumulates the gradient, while a loss exists.
  const size_t ours = 2 + (runner ? runner->averages().size() : 0);
  const size_t of_graph = torch::autograd::impl::try_get_grad_accumulator(tensor) ? 1 : 0;
  return static_cast<size_t>(tensor.use_count()) <= ours + of_graph + handles_beside;
}

void Group::see_resized() {
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].tensor.sizes() == sizes_[i]) continue;
    sizes_[i] = tensors[i].tensor.sizes().vec();
    tensors[i].name = fmt::format("{}_{}", tensors[i].buffer ? "buffer" : "parameter", named_++);
    replaced_ = true;
  }
}

bool Group::is_expired() const {
  return std::all_of(tensors.begin(), tensors.end(),
                     [&](const NamedTensor& item) { return is_orphan(item.tensor); });
}

int64_t Group::count_parameters() const {
  const auto buffers = std::count_if(tensors.begin(), tensors.end(),
                                     [](const NamedTensor& item) { return item.buffer; });
  return static_cast<int64_t>(tensors.size() + frozen.size()) - buffers;
}

}  // namespace polyak
