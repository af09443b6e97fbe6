#include "polyak/attach/group.h"

#include <algorithm>

#include "polyak/averaging/averaged_model.h"

namespace polyak {

void Group::add(NamedTensor item) {
  item.name = fmt::format("{}_{}", item.buffer ? "buffer" : "parameter", named_++);
  tensors.push_back(std::move(item));
  grown_ = true;
}

void Group::replace(const at::Tensor& before, const at::Tensor& now, bool continues) {
  for (NamedTensor& item : tensors) {
    if (!item.tensor.is_same(before)) continue;
    item.tensor = now;
    if (continues) {
      grown_ = true;
    } else {
      item.name = fmt::format("parameter_{}", named_++);
      replaced_ = true;
    }
    return;
  }
}

void Group::tell_averages(const AttachConfig& config, const Catalog& catalog) {
  const bool grown = std::exchange(grown_, false), replaced = std::exchange(replaced_, false);
  if (!runner || (!grown && !replaced)) return;
  if (!replaced) return runner->set_tensors(tensors);
  // An average has no way to forget a tensor: new ones take over what goes on.
  auto next = std::make_unique<AttachedRunner>(config, catalog, tensors, runner->progress().iter);
  for (const NamedAverage& before : runner->averages()) {
    if (before.average->steps() == 0) continue;
    std::vector<NamedTensor> values;
    for (const auto& item : before.average->named_averages()) {
      values.push_back({item.key(), item.value(), false});
    }
    for (const NamedAverage& after : next->averages()) {
      if (after.name != before.name) continue;
      after.average->load_state(values, before.average->steps());
      after.average->load_compensation(before.average->compensation());
    }
  }
  runner = std::move(next);
}

bool Group::is_orphan(const at::Tensor& tensor) const {
  // One handle is in `tensors`, one in the runner's model, one in each average.
  const size_t ours = 2 + (runner ? runner->averages().size() : 0);
  return tensor.use_count() <= ours;
}

bool Group::is_dead() const {
  return std::all_of(tensors.begin(), tensors.end(),
                     [&](const NamedTensor& item) { return is_orphan(item.tensor); });
}

int64_t Group::count_parameters() const {
  const auto buffers = std::count_if(tensors.begin(), tensors.end(),
                                     [](const NamedTensor& item) { return item.buffer; });
  return static_cast<int64_t>(tensors.size() + frozen.size()) - buffers;
}

}  // namespace polyak
