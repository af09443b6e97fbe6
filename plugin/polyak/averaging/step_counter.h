// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

namespace polyak {

/// The count of an average's updates, in the buffer `steps` of its module, and what that buffer
/// reveals about the module's other tensors.
///
/// Others may write a module's tensors in two ways without calling it. Both also write `steps`,
/// which is how the average detects them:
///
/// - A state dict is copied into the tensors of this module, or of a module that has it as a child.
///   The buffer keeps its address and holds another count: was_loaded(). The average continues from
///   the module's tensors, and adopt() confirms that it has taken them.
/// - The average of a larger model that has this module as a child is swapped in. This exchanges
///   storages, so the buffer has another address: is_in_place() is false until the larger model's
///   guard is released. Until then, the module's tensors belong to the larger average and must be
///   neither read nor written, whatever count the buffer holds.
///
/// A state dict with exactly the buffer's count is not detected.
class StepCounter {
 public:
  /// @param buffer int64, one element, on the CPU
  explicit StepCounter(at::Tensor buffer) : buffer_(std::move(buffer)) { adopt(); }

  /// What the buffer holds, whoever wrote it.
  int64_t value() const { return *buffer_.data_ptr<int64_t>(); }
  void set(int64_t steps) {
    counted_ = steps;
    *buffer_.data_ptr<int64_t>() = steps;
  }
  /// Writes the count from an archive, as a state dict would.
  void load(const at::Tensor& steps) { buffer_.copy_(steps); }

  /// Whether the buffer holds another count than this counter wrote.
  bool differs() const { return value() != counted_; }
  bool is_in_place() const { return buffer_.data_ptr() == place_; }
  bool was_loaded() const { return is_in_place() && differs(); }

  /// Accepts the buffer's current address and count.
  void adopt() {
    adopt_place();
    counted_ = value();
  }
  void adopt_place() { place_ = buffer_.data_ptr(); }

 private:
  at::Tensor buffer_;
  const void* place_ = nullptr;  // in memory
  int64_t counted_ = 0;          // what it should hold
};

}  // namespace polyak
