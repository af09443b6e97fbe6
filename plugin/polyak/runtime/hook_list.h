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

  /// Calls one point on every hook: `hooks.call([&](Hook& hook) { hook.before_train(runner); })`.
  template <class Call>
  void call(Call&& call) {
    for (const Entry& entry : entries_) call(*entry.hook);
  }

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
  };
  std::vector<Entry> entries_;
};

/// One validation or test pass: the constructor calls before_val and before_val_epoch, finish()
/// calls after_val_epoch and after_val. When an exception passes, the destructor calls the after_*
/// points with empty metrics for every hook whose before_* point was called, so that no hook leaves
/// the model changed. `validated` of the run_info holds the epoch and iteration of the last
/// validation that was finished.
class POLYAK_API EvaluationScope {
 public:
  EvaluationScope(Runner& runner, HookList& hooks, Hook::Stage stage);  // val or test
  ~EvaluationScope();
  EvaluationScope(const EvaluationScope&) = delete;
  EvaluationScope& operator=(const EvaluationScope&) = delete;

  void before_iter(int64_t batch);
  void after_iter(int64_t batch);
  /// `metrics` after every hook added its own.
  void finish(Scalars& metrics);

 private:
  void note_validation(int64_t epoch, int64_t iter);
  void break_off() noexcept;

  Runner& runner_;
  HookList& hooks_;
  Hook::Stage stage_;
  bool open_ = false;
  bool noted_ = false;                     // run_info names this validation as the last one
  std::optional<Value> validated_before_;  // and this one before
};

}  // namespace polyak
