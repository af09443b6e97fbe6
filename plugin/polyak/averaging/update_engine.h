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

/// How one average's updates are made: by its plan, on a thread beside a GPU's other work, or by
/// replays of a CUDA graph. What is to be done in an update, and the weight, is the caller's to
/// say; several averages are updated in one pass by JointUpdate.
class UpdateEngine {
 public:
  UpdateEngine(bool update_buffers, bool check_finite)
      : update_buffers_(update_buffers), check_finite_(check_finite) {}

  /// Whether the plan fits the tensors as they are now.
  bool fits(const AveragedTensors& tensors) const {
    return plan_ && revision_ == tensors.revision() && plan_->is_current();
  }
  /// Makes a plan for the tensors as they are now.
  void make_plan(const AveragedTensors& tensors);
  /// Lets go of a plan that is for other tensors than these, and so of those.
  void drop_stale_plan(const AveragedTensors& tensors);
  /// Null before the first make_plan().
  Plan* plan() const { return plan_.get(); }

  /// Makes an update of a plan with an offload: copies the model's weights to the host, starts to
  /// average there, and does the rest. `averages`, or just copies buffers.
  void update_in_background(double weight, bool averages);
  /// Waits for that, and throws what it threw. Comes before anything reads or writes the averages.
  void wait() const;
  /// Whether the model's weights may be written before they are copied, for fence() to prevent it.
  void defer_fence(bool defer) { defer_fence_ = defer; }
  void fence();

  /// @throws Error when an update is to be captured in a CUDA graph that cannot be
  void check_capture(int64_t steps, int64_t interval) const;
  /// After an update was captured.
  void keep_for_replays();
  /// @throws Error when no update was captured, or not one of these tensors as they are
  void check_replay(const AveragedTensors& tensors) const;
  /// Says what the next replay does, whichever graph it is of.
  void set_replay(double weight, bool averages) const;

 private:
  /// The tables that graphs read which captured updates, and the plan that they were made from.
  struct Captured {
    std::vector<Plan::Place> places;
    std::weak_ptr<const Plan> plan;
  };

  bool update_buffers_;
  bool check_finite_;
  bool defer_fence_ = false;
  std::shared_ptr<Plan> plan_;
  uint64_t revision_ = 0;  // of the tensors that the plan is for
  std::optional<Captured> captured_;
  std::unique_ptr<Background> background_;  // uses the plan: goes first
};

}  // namespace polyak
