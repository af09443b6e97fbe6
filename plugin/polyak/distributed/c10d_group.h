// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <utility>
#include <vector>

#include "polyak/averaging/process_group.h"

namespace polyak {

/// How long a failed process waits for the others to say that they failed too, and then for them to
/// learn what it found.
constexpr std::chrono::milliseconds kPatience{2000};

/// A ProcessGroup over c10d.
class C10dGroup final : public ProcessGroup {
 public:
  /// @param store where the processes met, to find out who is missing after a failure; may be null
  C10dGroup(c10::intrusive_ptr<c10d::ProcessGroup> processes, c10::intrusive_ptr<c10d::Store> store)
      : processes_(std::move(processes)), store_(std::move(store)) {}
  /// After a failure, lets the others find out who is missing, for a moment.
  ~C10dGroup() override;

  int64_t rank() const override { return processes_->getRank(); }
  int64_t size() const override { return processes_->getSize(); }
  const c10::intrusive_ptr<c10d::ProcessGroup>& c10d() const { return processes_; }
  /// Makes another group of the same processes: the first, the second, ...
  using Maker = std::function<std::shared_ptr<C10dGroup>(int64_t number)>;
  void set_maker(Maker maker) { maker_ = std::move(maker); }
  /// @return null without a maker
  std::shared_ptr<C10dGroup> duplicate() const;

  /// Calls `function`; if it throws because of another process, the error says what it was doing
  /// and, where that can be found out, which process is gone.
  void guard(const char* what, const std::function<void()>& function);

 protected:
  void do_all_reduce(const at::Tensor& tensor, const char* what) override;
  void do_broadcast(const at::Tensor& tensor, int64_t root, const char* what) override;
  void do_all_gather(const std::vector<at::Tensor>& all, const at::Tensor& tensor,
                     const char* what) override;

 private:
  std::string find_missing();

  c10::intrusive_ptr<c10d::ProcessGroup> processes_;
  c10::intrusive_ptr<c10d::Store> store_;
  Maker maker_;
  mutable int64_t duplicates_ = 0;
  bool failed_ = false;
  std::vector<int64_t> missing_;  // then: ranks that did not say that they failed too
};

}  // namespace polyak
