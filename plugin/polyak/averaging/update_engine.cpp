// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/update_engine.h"

#include <algorithm>

#include "polyak/averaging/joint_update.h"
#include "polyak/core/error.h"

namespace polyak {

void UpdateEngine::make_plan(const AveragedTensors& tensors) {
  plan_ = std::make_shared<Plan>(tensors.shared_slots(), check_finite_, check_buffers_);
  revision_ = tensors.revision();
}

void UpdateEngine::drop_stale_plan(const AveragedTensors& tensors) {
  if (revision_ != tensors.revision()) plan_.reset();
}

// ---- in parallel with a GPU

void UpdateEngine::wait() const {
  if (background_) background_->wait();
}

void UpdateEngine::fence() {
  if (plan_ && plan_->offload()) plan_->offload()->fence();
}

void UpdateEngine::update_in_background(double weight, bool averages) {
  Offload& offload = *plan_->offload();
  offload.copy(/*parameters=*/averages);
  if (!defer_fence_) offload.fence();
  if (!background_) background_ = std::make_unique<Background>();
  background_->start([plan = plan_.get(), weight, averages] {
    plan->offload()->wait();
    JointUpdate({plan, weight, averages, /*copies=*/false}).run_kernels();
    plan->copy_plain_buffers();
  });
  JointUpdate({plan_.get(), weight, averages, /*copies=*/true}).run_on_gpus();
  if (averages) plan_->run_aten(weight);
  plan_->copy_other_buffers();
}

// ---- CUDA graphs

void UpdateEngine::check_capture(bool has_started, int64_t interval) const {
  if (!plan_->is_captured_now()) return;
  if (!has_started) {
    fail<Error>(
        "update_parameters: the first update copies and cannot be part of a CUDA graph; call it "
        "once before the capture");
  }
  if (check_finite_) {
    fail<Error>(
        "update_parameters: skip_nonfinite waits for the GPU, which a CUDA graph cannot; turn it "
        "off");
  }
  if (!plan_->can_be_captured(interval == 1)) {
    fail<Error>(
        "update_parameters: a CUDA graph can capture an update only if model and average are on "
        "GPUs, dense and real{}",
        interval == 1 ? "" : ", and with update_buffers without integer buffers");
  }
}

void UpdateEngine::keep_for_replays() {
  if (!captured_ || captured_->plan.lock() != plan_) captured_ = Captured{{}, plan_};
  const Plan::Place& place = plan_->place();
  const bool known =
      std::any_of(captured_->places.begin(), captured_->places.end(),
                  [&](const Plan::Place& other) { return other.tables == place.tables; });
  if (place.tables && !known) captured_->places.push_back(place);
}

void UpdateEngine::check_replay(const AveragedTensors& tensors) const {
  if (!captured_) {
    fail<Error>("prepare_replay: no CUDA graph has captured an update of this average{}",
                DeviceTables::has_kernel(c10::kCUDA) ? "" : "; this build has no CUDA kernel");
  }
  if (captured_->plan.lock() != plan_ || !fits(tensors)) {
    fail<Error>(
        "prepare_replay: the tensors of the model or the average were moved since the graph was "
        "captured; capture it again");
  }
}

void UpdateEngine::set_replay(double weight, bool averages) const {
  for (const Plan::Place& place : captured_->places) {
    place.tables->set_turns(place.row, kernels::CudaTurn{weight, averages, /*copies=*/true});
  }
}

}  // namespace polyak
