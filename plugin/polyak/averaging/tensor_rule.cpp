// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/tensor_rule.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace polyak {

TensorRule::~TensorRule() = default;

void TensorRule::follow(const Slots& slots, uint64_t revision) {
  if (revision == revision_ && items_.size() == slots.size()) return;
  std::unordered_map<std::string, const Item*> had_name;
  std::unordered_map<const void*, const Item*> had_tensor;
  for (const Item& item : items_) {
    had_name.emplace(item.name, &item);
    had_tensor.emplace(item.source.unsafeGetTensorImpl(), &item);
  }
  std::unordered_set<const void*> now;
  for (const Slot& slot : slots) now.insert(slot.source.unsafeGetTensorImpl());
  std::vector<Item> items;
  for (const Slot& slot : slots) {
    Item item{slot.name, slot.source, is_averaged(slot), {}};
    if (item.averaged) {
      const auto same_tensor = had_tensor.find(slot.source.unsafeGetTensorImpl());
      const auto same_name = had_name.find(slot.name);
      const Item* known = same_tensor != had_tensor.end() ? same_tensor->second : nullptr;
      if (!known && same_name != had_name.end() &&
          !now.count(same_name->second->source.unsafeGetTensorImpl())) {
        known = same_name->second;
      }
      Tensors fresh = start(slot);
      if (known && known->tensors.size() == fresh.size() &&
          known->tensors[0].sizes() == fresh[0].sizes()) {
        // The device and dtype may be new.
        for (size_t i = 0; i < fresh.size(); ++i) {
          fresh[i] = known->tensors[i].to(fresh[i].device(), fresh[i].scalar_type());
        }
      }
      item.tensors = std::move(fresh);
    }
    items.push_back(std::move(item));
  }
  items_ = std::move(items);
  revision_ = revision;
}

void TensorRule::shard(const std::vector<size_t>& cut, const Slots& slots, uint64_t revision) {
  for (const size_t i : cut) {
    const Slot::Part& part = *slots[i].part;
    for (at::Tensor& tensor : items_[i].tensors) {
      tensor = tensor.contiguous().view({-1}).narrow(0, part.begin, part.end - part.begin).clone();
    }
  }
  revision_ = revision;
}

void TensorRule::accept_sources(const Slots& slots, uint64_t revision) {
  for (size_t i = 0; i < slots.size(); ++i) items_[i].source = slots[i].source;
  revision_ = revision;
}

void TensorRule::gather(ProcessGroup& processes, const ShardLayout& layout, const Slots& slots) {
  std::vector<size_t> cut;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].part) cut.push_back(i);
  }
  const size_t kinds = cut.empty() ? 0 : items_[cut[0]].tensors.size();
  for (size_t kind = 0; kind < kinds; ++kind) {
    std::vector<at::Tensor> parts, wholes;
    for (const size_t i : cut) {
      parts.push_back(items_[i].tensors[kind]);
      wholes.push_back(at::empty({slots[i].part->elements()}, parts.back().options()));
    }
    gather_parts(processes, layout, parts, wholes);
    for (size_t j = 0; j < cut.size(); ++j) {
      items_[cut[j]].tensors[kind] = wholes[j].view(slots[cut[j]].part->sizes);
    }
  }
}

void TensorRule::start(const Slots& slots, const std::set<std::string>* names) {
  for (size_t i = 0; i < slots.size(); ++i) {
    if (!items_[i].averaged || (names && !names->count(slots[i].name))) continue;
    const Tensors fresh = start(slots[i]);
    for (size_t j = 0; j < fresh.size(); ++j) items_[i].tensors[j].copy_(fresh[j]);
  }
}

void TensorRule::update(const Slots& slots, const Clock& clock, double weight) {
  for (size_t i = 0; i < slots.size(); ++i) {
    const Slot& slot = slots[i];
    if (items_[i].averaged) {
      update(slot, items_[i].tensors, clock, weight);
    } else if (slot.mode == TensorMode::average) {
      slot.average.copy_(slot.source);  // integers
    }
  }
}

std::vector<int64_t> TensorRule::bytes() const {
  std::vector<int64_t> all;
  for (const Item& item : items_) {
    int64_t bytes = 0;
    for (const at::Tensor& tensor : item.tensors) bytes += static_cast<int64_t>(tensor.nbytes());
    all.push_back(bytes);
  }
  return all;
}

std::vector<KeptTensors> TensorRule::kept() const {
  std::vector<KeptTensors> all;
  const std::vector<std::string> names = kinds();
  for (size_t kind = 0; kind < names.size(); ++kind) {
    KeptTensors of_kind{names[kind], {}};
    for (const Item& item : items_) {
      if (item.averaged) of_kind.tensors.push_back({item.name, item.tensors[kind], false});
    }
    all.push_back(std::move(of_kind));
  }
  return all;
}

void TensorRule::load(const std::vector<KeptTensors>& kept, const Node& options) {
  if (kept.empty() || !can_continue(options)) return;
  const std::vector<std::string> names = kinds();
  for (size_t kind = 0; kind < names.size(); ++kind) {
    const auto found = std::find_if(kept.begin(), kept.end(), [&](const KeptTensors& item) {
      return item.kind == names[kind];
    });
    if (found == kept.end()) continue;
    std::unordered_map<std::string, at::Tensor> by_name;
    for (const NamedTensor& item : found->tensors) by_name.emplace(item.name, item.tensor);
    for (const Item& item : items_) {
      const auto value = by_name.find(item.name);
      if (!item.averaged || value == by_name.end()) continue;
      if (value->second.sizes() == item.tensors[kind].sizes()) {
        item.tensors[kind].copy_(value->second);
      }
    }
  }
}

}  // namespace polyak
