// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/hook_list.h"

#include <algorithm>

namespace polyak {

void HookList::add(std::shared_ptr<Hook> hook, std::optional<int> priority) {
  const int own = priority.value_or(hook->priority());
  auto after =
      std::upper_bound(entries_.begin(), entries_.end(), own,
                       [](int value, const Entry& entry) { return value < entry.priority; });
  const std::vector<std::shared_ptr<Hook>> companions = hook->companions();
  entries_.insert(after, Entry{std::move(hook), own});
  for (const std::shared_ptr<Hook>& companion : companions) add(companion, own);
}

void HookList::add(const Node& node, const Registry<Hook>& registry, const Hook::Context& context) {
  std::optional<int> priority;
  if (const Node* given = node.is_mapping() ? node.find("priority") : nullptr;
      given && !given->is_null()) {
    priority = parse_priority(*given);
  }
  add(registry.build(node.is_mapping() ? node.without({"priority"}) : node, context), priority);
}

std::vector<std::string> HookList::lines() const {
  std::vector<std::string> lines;
  for (const Entry& entry : entries_) {
    lines.push_back(fmt::format("({:<12}) {}", priority_name(entry.priority), entry.hook->name()));
  }
  return lines;
}

bool HookList::next_posts_averages(const Hook& hook) const {
  for (size_t i = 0; i + 1 < entries_.size(); ++i) {
    if (entries_[i].hook.get() == &hook) return entries_[i + 1].hook->posts_averages();
  }
  return false;
}

}  // namespace polyak
