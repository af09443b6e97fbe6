// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/groups.h"

#include <algorithm>
#include <set>

#include "polyak/averaging/averaged_model.h"

namespace polyak {

bool same_but_for_rows(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.dim() > 0 && a.dim() == b.dim() &&
         a.sizes().slice(1) == b.sizes().slice(1) && a.size(0) != b.size(0);
}

Group* Groups::find(const void* address) const {
  const auto known = group_of_.find(address);
  return known == group_of_.end() ? nullptr : known->second;
}

Group& Groups::make(int64_t made, std::string optimizer) {
  groups_.push_back(std::make_unique<Group>());
  groups_.back()->made = made;
  groups_.back()->optimizer = std::move(optimizer);
  return *groups_.back();
}

void Groups::add(Group& group, const std::vector<NamedTensor>& tensors) {
  for (const NamedTensor& item : tensors) {
    if (!group_of_.emplace(item.tensor.unsafeGetTensorImpl(), &group).second) continue;
    frozen_of_.erase(item.tensor.unsafeGetTensorImpl());
    group.add(item);
  }
}

std::vector<NamedTensor> Groups::set_frozen(Group& group, const std::vector<NamedTensor>& beside) {
  std::vector<NamedTensor> buffers;
  group.frozen.clear();
  for (const NamedTensor& item : beside) {
    const void* address = item.tensor.unsafeGetTensorImpl();
    if (item.buffer) {
      buffers.push_back(item);
    } else if (!group_of_.count(address) &&
               frozen_of_.try_emplace(address, &group).first->second == &group) {
      group.frozen.push_back(item);
    }
  }
  return buffers;
}

void Groups::replace(const at::Tensor& before, const at::Tensor& now, bool continues) {
  const auto known = group_of_.find(before.unsafeGetTensorImpl());
  if (known == group_of_.end()) return;
  Group* group = known->second;
  group->replace(before, now, continues);
  group_of_.erase(known);
  group_of_.emplace(now.unsafeGetTensorImpl(), group);
}

std::vector<NamedTensor> Groups::remove_orphans(Group& group) {
  std::vector<NamedTensor> orphans = group.remove_orphans();
  for (const NamedTensor& item : orphans) group_of_.erase(item.tensor.unsafeGetTensorImpl());
  return orphans;
}

std::vector<Group*> Groups::expired() {
  // Asked once for each group: other threads may release models at any time.
  const auto first = std::stable_partition(
      groups_.begin(), groups_.end(),
      [](const std::unique_ptr<Group>& group) { return !group->is_expired(); });
  std::vector<Group*> expired;
  for (auto group = first; group != groups_.end(); ++group) expired.push_back(group->get());
  return expired;
}

void Groups::drop(const std::vector<Group*>& expired) {
  for (const Group* group : expired) {
    for (const NamedTensor& item : group->tensors) {
      group_of_.erase(item.tensor.unsafeGetTensorImpl());
    }
    for (const NamedTensor& item : group->frozen) {
      frozen_of_.erase(item.tensor.unsafeGetTensorImpl());
    }
  }
  const auto is_expired = [&](const std::unique_ptr<Group>& group) {
    return std::find(expired.begin(), expired.end(), group.get()) != expired.end();
  };
  groups_.erase(std::remove_if(groups_.begin(), groups_.end(), is_expired), groups_.end());
}

AveragedTensors Groups::averages(const std::string& name, bool with_buffers) const {
  AveragedTensors averages;
  for (const auto& group : groups_) {
    if (!group->runner) continue;
    for (const NamedAverage& item : group->runner->averages()) {
      if (item.name != name || !item.average->has_started()) continue;
      std::unordered_map<std::string, at::Tensor> values;
      for (const NamedTensor& value : item.average->state()) values[value.name] = value.tensor;
      for (const NamedTensor& tensor : group->tensors) {
        if (tensor.buffer && !(with_buffers && tensor.tensor.is_floating_point())) continue;
        const auto value = values.find(tensor.name);  // absent: was added after the last update
        if (value != values.end()) averages.add(tensor.tensor, value->second);
      }
    }
  }
  return averages;
}

std::unordered_map<std::string, at::Tensor> Groups::orphans(const TensorNames& names) const {
  std::unordered_map<std::string, at::Tensor> found;
  for (const auto& group : groups_) {
    if (!group->runner) continue;
    for (const NamedTensor& item : group->tensors) {
      const std::string name = names.name_of(item.tensor);
      if (!item.buffer && !name.empty() && group->is_orphan(item.tensor)) {
        found.emplace(name, item.tensor);
      }
    }
  }
  return found;
}

bool Groups::is_grown(const torch::jit::Module& module) const {
  std::vector<at::Tensor> parameters;
  for (const c10::IValue& slot : module._ivalue()->slots()) {
    if (!slot.isTensor() || !slot.toTensor().defined() || !slot.toTensor().requires_grad())
      continue;
    parameters.push_back(slot.toTensor());
    if (group_of_.count(parameters.back().unsafeGetTensorImpl())) return false;
  }
  std::set<int64_t> rows_before, rows_now;
  std::set<const void*> matched;
  std::set<const Group*> groups;
  for (const at::Tensor& parameter : parameters) {
    const void* found = nullptr;
    for (const auto& group : groups_) {
      for (const NamedTensor& item : group->tensors) {
        const void* address = item.tensor.unsafeGetTensorImpl();
        if (found || !group->runner || item.buffer || matched.count(address)) continue;
        if (!same_but_for_rows(parameter, item.tensor)) continue;
        found = address;
        rows_before.insert(item.tensor.size(0));
        groups.insert(group.get());
      }
    }
    if (!found) return false;
    matched.insert(found);
    rows_now.insert(parameter.size(0));
  }
  size_t averaged = 0;
  for (const Group* group : groups) averaged += static_cast<size_t>(group->count_parameters());
  return !parameters.empty() && rows_before.size() == 1 && rows_now.size() == 1 &&
         averaged == parameters.size();
}

bool Groups::may_be_copy(const torch::jit::Module& module) const {
  if (module.hasattr("param_groups")) return false;
  std::set<std::vector<int64_t>> shapes;
  for (const auto& group : groups_) {
    if (!group->runner) continue;
    for (const NamedTensor& item : group->tensors) {
      if (!item.buffer && item.tensor.numel() > 1) shapes.insert(item.tensor.sizes().vec());
    }
  }
  const auto is_like = [&](const at::Tensor& tensor) {
    return tensor.defined() && tensor.is_floating_point() && shapes.count(tensor.sizes().vec()) > 0;
  };
  for (const c10::IValue& slot : module._ivalue()->slots()) {
    if (slot.isTensor() && is_like(slot.toTensor())) return true;
    if (slot.isModule() && may_be_copy(slot.toModule())) return true;
  }
  return false;
}

}  // namespace polyak
