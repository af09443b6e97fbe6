// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/layer_changes.h"

#include <fmt/ranges.h>

#include "polyak/core/text.h"

namespace polyak {

std::string LayerChanges::text() const {
  std::vector<std::string> parts;
  const auto add = [&](const char* what, const std::vector<std::string>& names, const char* then) {
    if (!names.empty()) parts.push_back(fmt::format("{} {} ({})", what, list_names(names), then));
  };
  add("added", added, "averaged from a copy on");
  add("removed", removed, "left the average");
  add("of another shape", restarted, "averaged from a copy on");
  add("renamed", renamed, "the average continues");
  add("replaced", replaced, "the average continues");
  if (parts.empty() && ties) parts.emplace_back("other tensors are tied");
  if (parts.empty()) return {};
  return fmt::format("the model's layers changed: {}", fmt::join(parts, "; "));
}

std::unordered_map<std::string, size_t> replaced_names(const Slots& before,
                                                       const SlotNames& names_before,
                                                       const std::vector<NamedTensor>& now) {
  const std::unordered_map<std::string, size_t> had_name(names_before.begin(), names_before.end());
  std::unordered_map<const void*, bool> stays;  // of tensors that are in the model
  for (const NamedTensor& item : now) {
    const auto had = had_name.find(item.name);
    const bool same = had != had_name.end() && before[had->second].source.is_same(item.tensor);
    stays[item.tensor.unsafeGetTensorImpl()] |= same;
  }
  std::unordered_map<std::string, size_t> replaced;
  for (const auto& [name, i] : names_before) {
    const auto found = stays.find(before[i].source.unsafeGetTensorImpl());
    if (found == stays.end() || found->second) replaced.emplace(name, i);
  }
  return replaced;
}

}  // namespace polyak
