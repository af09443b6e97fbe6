// SPDX-License-Identifier: Apache-2.0
// How AveragedTensors are cut among processes.
#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_map>

#include "polyak/averaging/average_memory.h"
#include "polyak/averaging/averaged_tensors.h"

namespace polyak {
namespace {

/// A buffer follows each process's own data, and other layouts have no elements in a row.
bool can_cut(const Slot& slot) {
  return is_averaged(slot) && !slot.buffer && !slot.shared && slot.source.is_contiguous() &&
         slot.average.is_contiguous() && slot.average.sizes() == slot.source.sizes();
}

/// Gives the slot's tensors in the averaged module this data.
void set_module_data(const Slot& slot, const at::Tensor& data) {
  slot.module_tensor.set_data(data);
  for (const at::Tensor& alias : slot.aliases) alias.set_data(slot.module_tensor.variable_data());
}

std::vector<at::Tensor> wholes_of(const std::vector<at::Tensor>& parts, const Slots& slots,
                                  const std::vector<size_t>& cut) {
  std::vector<at::Tensor> wholes(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].defined()) continue;
    wholes[i] = at::empty({slots[cut[i]].part->elements()}, parts[i].options());
  }
  return wholes;
}

}  // namespace

std::vector<size_t> AveragedTensors::shard(int64_t rank, int64_t processes) {
  std::vector<size_t> cut;
  std::vector<ShardLayout::Item> items;
  for (size_t i = 0; i < slots_->size(); ++i) {
    const Slot& slot = (*slots_)[i];
    if (!can_cut(slot)) continue;
    cut.push_back(i);
    const int64_t residual = slot.residual.defined() ? slot.residual.element_size() : 0;
    items.push_back({slot.average.numel(), slot.average.element_size() + residual});
  }
  layout_.emplace(items, processes);
  for (size_t i = 0; i < cut.size(); ++i) {
    Slot& slot = (*slots_)[cut[i]];
    const ShardLayout::Part mine = layout_->part(i, rank);
    slot.part = Slot::Part{mine.begin, mine.end, slot.is_apart(), slot.average.sizes().vec()};
    const auto keep = [&](const at::Tensor& whole) {
      return whole.detach().view({-1}).narrow(0, mine.begin, mine.size()).clone();
    };
    const at::Tensor average = keep(slot.average);
    if (slot.residual.defined()) slot.residual = keep(slot.residual);
    set_module_data(slot, at::empty({0}, slot.module_tensor.options()));
    slot.average = average;
  }
  ++revision_;
  gather_averages(*slots_);
  return cut;
}

void AveragedTensors::gather(ProcessGroup& processes) {
  std::vector<size_t> cut;
  std::vector<at::Tensor> averages, residuals;
  for (size_t i = 0; i < slots_->size(); ++i) {
    const Slot& slot = (*slots_)[i];
    if (!slot.part) continue;
    cut.push_back(i);
    averages.push_back(slot.average);
    residuals.push_back(slot.residual);
  }
  const std::vector<at::Tensor> whole = wholes_of(averages, *slots_, cut);
  gather_parts(processes, *layout_, averages, whole);
  const std::vector<at::Tensor> whole_residuals = wholes_of(residuals, *slots_, cut);
  gather_parts(processes, *layout_, residuals, whole_residuals);
  for (size_t i = 0; i < cut.size(); ++i) {
    Slot& slot = (*slots_)[cut[i]];
    const Slot::Part part = *slot.part;
    slot.part.reset();
    const at::Tensor average = whole[i].view(part.sizes);
    if (part.apart) {
      set_module_data(slot, at::empty(part.sizes, slot.module_tensor.options()));
      slot.average = average;
    } else {
      set_module_data(slot, average);
      slot.average = slot.module_tensor;
    }
    if (whole_residuals[i].defined()) slot.residual = whole_residuals[i].view(part.sizes);
  }
  for (const Slot& slot : *slots_) {
    if (!slot.buffer || slot.shared) continue;
    const at::Tensor dense = slot.average.contiguous();
    processes.broadcast(dense, 0, "gathering an average");
    if (!dense.is_same(slot.average)) slot.average.copy_(dense);
  }
  layout_.reset();
  ++revision_;
}

bool AveragedTensors::follow_in_parts(const std::vector<NamedTensor>& tensors) {
  if (tensors.size() != names_.size()) return false;
  std::unordered_map<std::string, const NamedTensor*> by_name;
  for (const NamedTensor& item : tensors) by_name.emplace(item.name, &item);
  for (const auto& [name, i] : names_) {
    const auto found = by_name.find(name);
    if (found == by_name.end()) return false;
    const Slot& slot = (*slots_)[i];
    const at::Tensor& source = found->second->tensor;
    const auto sizes = slot.part ? at::IntArrayRef(slot.part->sizes) : slot.average.sizes();
    const bool fits = source.sizes() == sizes && source.scalar_type() == slot.followed_dtype &&
                      source.device() == slot.followed_device &&
                      source.is_same(by_name.at(slot.name)->tensor) &&
                      (!slot.part || source.is_contiguous());
    if (!fits) return false;
  }
  for (Slot& slot : *slots_) slot.source = by_name.at(slot.name)->tensor;
  ++revision_;
  return true;
}

bool AveragedTensors::is_bound_to(const std::vector<NamedTensor>& tensors) const {
  if (tensors.size() != names_.size()) return false;
  const std::unordered_map<std::string, size_t> slot_of(names_.begin(), names_.end());
  return std::all_of(tensors.begin(), tensors.end(), [&](const NamedTensor& item) {
    const auto found = slot_of.find(item.name);
    return found != slot_of.end() && (*slots_)[found->second].source.is_same(item.tensor);
  });
}

bool AveragedTensors::has_to_settle() const {
  return watches_gradients_ && std::any_of(slots_->begin(), slots_->end(), [](const Slot& slot) {
           return slot.frozen && (slot.source.requires_grad() || slot.mode == TensorMode::average);
         });
}

}  // namespace polyak
