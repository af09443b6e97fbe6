// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <vector>

namespace polyak {

/// Weights on their way from a device to the host: copied by a stream of their own into pinned
/// memory, beside whatever the device does meanwhile.
///
/// copy() and fence() belong to the training thread; wait() may be called from one other.
class Offload {
 public:
  explicit Offload(c10::Device device);

  c10::Device device() const { return device_; }

  /// Adds a tensor of the device, dense. @return where its values arrive: pinned, the same strides.
  at::Tensor add(const at::Tensor& source, bool buffer);

  /// Starts to copy the buffers, and the parameters if they are wanted, after the work that the
  /// current stream has so far. What that stream gets from now on waits for the buffers: the next
  /// forward pass writes them.
  void copy(bool parameters);
  /// Lets what the current stream gets from now on wait until the parameters are copied too:
  /// before the optimizer writes them.
  void fence();
  /// Waits until the copies are made.
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
