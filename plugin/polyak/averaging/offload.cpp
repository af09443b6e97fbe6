// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/offload.h"

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>
#include <thread>

namespace polyak {

Offload::Offload(c10::Device device)
    : device_(device),
      side_(c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device)),
      copied_(device.type()) {}

at::Tensor Offload::add(const at::Tensor& source, bool buffer) {
  const auto options = at::TensorOptions().dtype(source.scalar_type()).pinned_memory(true);
  at::Tensor arrival = at::empty_strided(source.sizes(), source.strides(), options);
  (buffer ? buffers_ : parameters_).push_back({source.detach(), arrival});
  return arrival;
}

void Offload::copy(bool parameters) {
  const c10::Stream current = c10::impl::VirtualGuardImpl(device_.type()).getStream(device_);
  c10::Event ready(device_.type()), buffers_copied(device_.type());
  ready.record(current);
  {
    const c10::StreamGuard guard(side_);
    ready.block(side_);
    start(buffers_);
    buffers_copied.record(side_);
    if (parameters) start(parameters_);
    copied_.record(side_);
  }
  buffers_copied.block(current);
}

void Offload::start(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    copy.arrival.copy_(copy.source, /*non_blocking=*/true);
    copy.source.record_stream(side_);  // keeps the memory if the tensor is destroyed
  }
}

void Offload::fence() {
  copied_.block(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
}

void Offload::wait() {
  // Older LibTorch versions cannot sleep until an event.
  while (!copied_.query()) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

}  // namespace polyak
