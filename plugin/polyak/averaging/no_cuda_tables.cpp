// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/device_tables.h"

// A build without our CUDA kernel: LibTorch's operations average on GPUs.
namespace polyak {

struct DeviceTables::Tables {};

bool DeviceTables::has_kernel(c10::Device /*device*/) {
  return false;
}
bool DeviceTables::is_capturing() {
  return false;
}
DeviceTables::DeviceTables(c10::ArrayRef<const DeviceRows*> rows) : rows_(rows.size()) {}
DeviceTables::~DeviceTables() = default;
void DeviceTables::set_turns(size_t /*first_row*/,
                             c10::ArrayRef<kernels::CudaTurn> /*turns*/) const {}
void DeviceTables::update() const {}

}  // namespace polyak
