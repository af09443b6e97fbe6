// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/tensor_names.h"

#include <algorithm>
#include <set>

namespace polyak {

bool can_be_averaged(const at::Tensor& tensor) {
  return tensor.layout() == at::kStrided && tensor.has_storage() && !tensor.is_meta() &&
         !tensor.is_quantized();
}

void TensorNames::add_tree(const std::vector<NamedTensor>& tensors) {
  drop_expired();
  std::set<int64_t> trees;
  for (const NamedTensor& item : tensors) {
    const auto known = entries_.find(item.tensor.unsafeGetTensorImpl());
    if (known != entries_.end() && known->second.tree != 0) trees.insert(known->second.tree);
  }
  // Part of a known tree belongs to that tree; a tree that joins several trees is a new one.
  const int64_t tree = trees.size() == 1 ? *trees.begin() : ++trees_;
  for (const NamedTensor& item : tensors) {
    Entry& entry = entry_of(item.tensor);
    if (entry.tree == 0 || entry.name.size() < item.name.size()) entry.name = item.name;
    if (entry.tree != tree) ++generation_;
    entry.tree = tree;
    entry.buffer = item.buffer;
  }
}

void TensorNames::add(const at::Tensor& tensor, const std::string& name) {
  Entry& entry = entry_of(tensor);
  if (entry.tree == 0 && entry.name.size() < name.size()) entry.name = name;
}

TensorNames::Entry& TensorNames::entry_of(const at::Tensor& tensor) {
  const auto [entry, is_new] = entries_.try_emplace(
      tensor.unsafeGetTensorImpl(), Entry{WeakTensor(tensor.getIntrusivePtr()), ""});
  return entry->second;
}

std::string TensorNames::name_of(const at::Tensor& tensor) const {
  const auto known = entries_.find(tensor.unsafeGetTensorImpl());
  return known == entries_.end() ? "" : known->second.name;
}

std::vector<NamedTensor> TensorNames::beside(const std::vector<NamedTensor>& tensors) const {
  std::set<int64_t> trees;
  for (const NamedTensor& item : tensors) {
    const auto known = entries_.find(item.tensor.unsafeGetTensorImpl());
    if (known != entries_.end() && known->second.tree != 0) trees.insert(known->second.tree);
  }
  std::vector<NamedTensor> found;
  for (const auto& [address, entry] : entries_) {
    if (!trees.count(entry.tree)) continue;
    auto alive = entry.tensor.lock();
    if (!alive) continue;
    at::Tensor tensor(std::move(alive));
    if ((entry.buffer || !tensor.requires_grad()) && can_be_averaged(tensor)) {
      found.push_back({entry.name, std::move(tensor), entry.buffer});
    }
  }
  std::sort(found.begin(), found.end(),
            [](const NamedTensor& a, const NamedTensor& b) { return a.name < b.name; });
  return found;
}

void TensorNames::drop_expired() {
  if (entries_.size() < forget_at_) return;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    entry = entry->second.tensor.expired() ? entries_.erase(entry) : std::next(entry);
  }
  forget_at_ = 2 * entries_.size() + 1024;
}

}  // namespace polyak
