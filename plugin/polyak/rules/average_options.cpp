// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/average_options.h"

#include <torch/cuda.h>

namespace polyak {

c10::Device parse_device(const std::string& text) {
  try {
    const c10::Device device(text);
    if (device.is_cpu() || device.is_cuda()) return device;
  } catch (const c10::Error&) {
    fail_option("device", "'{}' is not a device; use cpu, cuda or cuda:N", text);
  }
  fail_option("device", "'{}' is not supported; it must be cpu, cuda or cuda:N", text);
}

std::string device_name(const c10::Device& device) {
  return device.str();
}

std::string average_start_name(AverageStart start) {
  return start == AverageStart::initial ? "initial" : "first_update";
}

AverageStart parse_average_start(const std::string& name) {
  if (name == "initial") return AverageStart::initial;
  if (name == "first_update") return AverageStart::first_update;
  fail_option("start", "must be first_update or initial, got '{}'", name);
}

void check_device(const c10::Device& device) {
  if (!device.is_cpu() && !device.is_cuda()) {
    fail_option("device", "'{}' is not supported; it must be cpu, cuda or cuda:N", device.str());
  }
  if (!device.is_cuda()) return;
  if (!torch::cuda::is_available()) {
    fail_option("device", "'{}' is not available: this LibTorch or this machine has no CUDA",
                device.str());
  }
  const auto count = static_cast<int64_t>(torch::cuda::device_count());
  if (device.has_index() && device.index() >= count) {
    fail_option("device", "'{}' is not available: this machine has {} CUDA device(s)", device.str(),
                count);
  }
}

}  // namespace polyak
