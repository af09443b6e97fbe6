// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <vector>

namespace polyak {

/// Copies weights from a device to the host: on its own stream into pinned memory, while the device
/// does other work.
///
/// copy() and fence() belong to the training thread; wait() may be called from one other.
class Offload {
 public:
  explicit Offload(c10::Device device);

  c10::Device device() const { return device_; }

  /// Adds a dense tensor of the device. @return where its values arrive: pinned, the same strides
  /// @param buffer whether it is copied at every update, like the buffers that are not averaged
  at::Tensor add(const at::Tensor& source, bool buffer);

  /// Starts to copy the buffers, and the parameters if `parameters`, after the work that the
  /// current stream has so far. Later work on that stream waits for the buffers, because the next
  /// forward pass writes them.
  void copy(bool parameters);
  /// Makes later work on the current stream wait until the parameters are copied too: call it
  /// before the optimizer writes them.
  void fence();
  /// Waits until the copies are done.
  void wait();

 private:
  c10::Device device_;
  c10::Stream side_;
  c10::Event copied_;
  struct Copy {
    at::Tensor source;
    at::Tensor arrival;
  };
  void start(const std::vector<Copy>& copies);
  std::vector<Copy> buffers_;
  std::vector<Copy> parameters_;
};

}  // namespace polyak
