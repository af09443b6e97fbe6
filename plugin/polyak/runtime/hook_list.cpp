// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/hook_list.h"

#include <algorithm>

#include "polyak/config/problems.h"

namespace polyak {

void HookList::add(std::shared_ptr<Hook> hook, std::optional<int> priority) {
  add(std::move(hook), priority, Node());
}

void HookList::add(std::shared_ptr<Hook> hook, std::optional<int> priority, const Node& block) {
  const int own = priority.value_or(hook->priority());
  auto after =
      std::upper_bound(entries_.begin(), entries_.end(), own,
                       [](int value, const Entry& entry) { return value < entry.priority; });
  const std::vector<std::shared_ptr<Hook>> companions = hook->companions();
  entries_.insert(after, Entry{std::move(hook), own, block});
  for (const std::shared_ptr<Hook>& companion : companions) add(companion, own, block);
}

void HookList::add(const Node& node, const Registry<Hook>& registry, const Hook::Context& context) {
  std::optional<int> priority;
  if (const Node* given = node.is_mapping() ? node.find("priority") : nullptr;
      given && !given->is_null()) {
    priority = parse_priority(*given);
  }
  add(registry.build(node.is_mapping() ? node.without({"priority"}) : node, context), priority,
      node);
}

void HookList::check_run(Runner& runner) {
  Problems problems;
  for (const Entry& entry : entries_) {
    problems.attempt([&] {
      try {
        entry.hook->check_run(runner);
      } catch (const ProblemsError&) {
        throw;
      } catch (const OptionError& error) {
        fail_at(entry.block, error, entry.hook->name());
      } catch (const ConfigError& error) {
        entry.block.fail(error.what());
      }
    });
  }
  problems.throw_all();
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
