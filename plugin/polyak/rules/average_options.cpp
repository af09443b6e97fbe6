// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/average_options.h"

#include <torch/cuda.h>

#include "polyak/core/error.h"

namespace polyak {

void check_device(const std::string& text) {
  std::optional<c10::Device> device;
  try {
    device = c10::Device(text);
  } catch (const c10::Error&) {
    fail<ConfigError>("device: '{}' is no device; write cpu, cuda, or cuda:0", text);
  }
  if (!device->is_cpu() && !device->is_cuda()) {
    fail<ConfigError>("device: '{}' is not supported; it must be cpu, cuda or cuda:N", text);
  }
  if (device->is_cuda() && !torch::cuda::is_available()) {
    fail<ConfigError>("device: '{}' is not available: this LibTorch or this machine has no CUDA",
                      text);
  }
  if (device->is_cuda() && device->has_index()) {
    const auto count = static_cast<int64_t>(torch::cuda::device_count());
    if (device->index() >= count) {
      fail<ConfigError>("device: '{}' is not available: this machine has {} CUDA device(s)", text,
                        count);
    }
  }
}

}  // namespace polyak
