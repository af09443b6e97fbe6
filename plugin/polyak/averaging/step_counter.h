// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>

namespace polyak {

/// The count of an average's updates, in the buffer `steps` of its module, and what that buffer
/// tells of the module's other tensors.
///
/// Others write a module's tensors without a call to it, in two ways. Both write `steps` among
/// them, and that is how the average learns of them:
///
/// - A state dict is copied into the tensors, of this module or of one that has it as a child. The
///   buffer stays where it is and holds another count: was_loaded(). The module's tensors are the
///   values to go on from, and adopt() says that they were taken.
/// - The average of a larger model that has this module as a child is swapped in. That exchanges
///   storages, so the buffer stands elsewhere in memory: is_in_place() is false until the larger
///   model's guard goes. The module's tensors are the larger average's then, neither to be read
///   nor written, whatever count the buffer shows.
///
/// A state dict with the very count that the buffer has goes unnoticed.
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
  /// Writes what an archive holds, as a state dict would.
  void load(const at::Tensor& steps) { buffer_.copy_(steps); }

  /// Whether the buffer holds another count than this counter gave it.
  bool differs() const { return value() != counted_; }
  bool is_in_place() const { return buffer_.data_ptr() == place_; }
  bool was_loaded() const { return is_in_place() && differs(); }

  /// Takes the buffer where it is and the count that it holds as its own.
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
