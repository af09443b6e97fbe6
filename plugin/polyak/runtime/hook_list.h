// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/hook.h"

namespace polyak {

/// The hooks of a run in the order in which they are called.
class POLYAK_API HookList {
 public:
  /// Inserts after the last hook of the same or an earlier priority.
  void add(std::shared_ptr<Hook> hook, std::optional<int> priority = std::nullopt);

  /// Builds a hook from a node (`type`, optional `priority`, the hook's own keys) and adds it.
  void add(const Node& node, const Registry<Hook>& registry, const Hook::Context& context);

  /// Calls check_run() on every hook.
  /// @throws ProblemsError with what each one refuses, at its key or block if it has one
  void check_run(Runner& runner);

  /// Calls one point on every hook: `hooks.call([&](Hook& hook) { hook.before_train(runner); })`.
  template <class Call>
  void call(Call&& call) {
    for (const Entry& entry : entries_) call(*entry.hook);
  }

  /// Whether the hook after this one posts updates of averages (Hook::posts_averages). It is called
  /// before anything can change the weights or read an average, so updates may wait for it.
  bool next_posts_averages(const Hook& hook) const;

  /// Whether there are no hooks.
  bool empty() const { return entries_.empty(); }
  /// "(NORMAL      ) EMAHook", in order.
  std::vector<std::string> lines() const;
  /// The first hook of a class, or nullptr.
  template <class H>
  H* find() const {
    for (const Entry& entry : entries_) {
      if (auto* hook = dynamic_cast<H*>(entry.hook.get())) return hook;
    }
    return nullptr;
  }

 private:
  struct Entry {
    std::shared_ptr<Hook> hook;
    int priority;
    Node block;  // of the config; null: none
  };
  void add(std::shared_ptr<Hook> hook, std::optional<int> priority, const Node& block);

  std::vector<Entry> entries_;
};

}  // namespace polyak
