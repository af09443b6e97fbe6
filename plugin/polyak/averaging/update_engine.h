// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "polyak/averaging/averaged_tensors.h"
#include "polyak/averaging/background.h"
#include "polyak/averaging/plan.h"

namespace polyak {

/// Runs the updates of one average: with its plan, on a thread while a GPU does other work, or by
/// replays of a CUDA graph. The caller decides what an update does, and its weight; JointUpdate
/// updates several averages in one pass.
class UpdateEngine {
 public:
  explicit UpdateEngine(bool check_finite) : check_finite_(check_finite) {}

  /// Whether buffers are checked too, from the next plan on; true at first.
  void check_buffers(bool value) {
    if (value != check_buffers_) plan_.reset();
    check_buffers_ = value;
  }

  /// Whether the plan fits the current tensors.
  bool fits(const AveragedTensors& tensors) const {
    return plan_ && revision_ == tensors.revision() && plan_->is_current();
  }
  /// Makes a plan for the current tensors.
  void make_plan(const AveragedTensors& tensors);
  /// Drops a plan for other tensors than these, and thereby releases those.
  void drop_stale_plan(const AveragedTensors& tensors);
  /// Null before the first make_plan().
  Plan* plan() const { return plan_.get(); }

  /// Runs an update of a plan with an offload: copies the model's weights to the host, starts to
  /// average there, and does the rest. Without `averages`, it only copies buffers.
  void update_in_background(double weight, bool averages);
  /// Waits for it and rethrows its exception. Call it before reading or writing the averages.
  void wait() const;
  /// Whether the model's weights may be written before they are copied, unless fence() is called.
  void defer_fence(bool defer) { defer_fence_ = defer; }
  void fence();

  /// @throws Error if a CUDA graph is being captured that cannot capture the update
  void check_capture(bool has_started, int64_t interval) const;
  /// Call it after an update was captured.
  void keep_for_replays();
  /// @throws Error if no update was captured, or not with the current tensors
  void check_replay(const AveragedTensors& tensors) const;
  /// Sets what the next replay does, for every graph.
  void set_replay(double weight, bool averages) const;

 private:
  /// The tables that graphs with captured updates read, and the plan that they were made from.
  struct Captured {
    std::vector<Plan::Place> places;
    std::weak_ptr<const Plan> plan;
  };

  bool check_finite_;
  bool check_buffers_ = true;
  bool defer_fence_ = false;
  std::shared_ptr<Plan> plan_;
  uint64_t revision_ = 0;  // of the tensors that the plan is for
  std::optional<Captured> captured_;
  std::unique_ptr<Background> background_;  // uses the plan: destroyed first
};

}  // namespace polyak
