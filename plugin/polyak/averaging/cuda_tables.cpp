// SPDX-License-Identifier: Apache-2.0
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/cuda.h>

#include <set>
#include <vector>

#include "polyak/averaging/device_tables.h"
#include "polyak/kernels/lerp_cuda.h"

namespace polyak {
namespace {

void* stream_of(const kernels::CudaTable& table) {
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(table.device())).stream();
}

}  // namespace

struct DeviceTables::Tables {
  std::vector<kernels::CudaTable> all;
};

bool DeviceTables::has_kernel(c10::Device device) {
  return device.is_cuda();
}

bool DeviceTables::is_capturing() {
  return torch::cuda::is_available() &&
         c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

DeviceTables::DeviceTables(c10::ArrayRef<const DeviceRows*> rows)
    : rows_(rows.size()), tables_(std::make_unique<Tables>()) {
  std::set<c10::DeviceIndex> devices;
  for (const DeviceRows* row : rows) {
    for (const auto& [device, work] : *row) devices.insert(device);
  }
  for (const c10::DeviceIndex device : devices) {
    // A row for each average on each device, so that an average has the same number on all.
    std::vector<kernels::CudaRow> there;
    for (const DeviceRows* row : rows) {
      const auto work = row->find(device);
      there.push_back(work == row->end() ? kernels::CudaRow() : work->second);
    }
    tables_->all.emplace_back(there, int{device});
  }
}

DeviceTables::~DeviceTables() = default;

void DeviceTables::set_turns(size_t first_row, c10::ArrayRef<kernels::CudaTurn> turns) const {
  for (kernels::CudaTable& table : tables_->all) {
    table.set_turns(first_row, turns.data(), turns.size(), stream_of(table));
  }
}

void DeviceTables::update() const {
  for (const kernels::CudaTable& table : tables_->all) table.update(stream_of(table));
}

}  // namespace polyak
