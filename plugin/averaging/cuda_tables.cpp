#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/cuda.h>

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

void DeviceTables::build() {
  if (empty()) return;
  tables_ = std::make_shared<Tables>();
  for (const auto& [device, spans] : spans_) tables_->all.emplace_back(spans, int{device});
}

bool DeviceTables::is_capturing() {
  return torch::cuda::is_available() &&
         c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

void DeviceTables::set_weight(double weight) const {
  if (!tables_) return;
  for (kernels::CudaTable& table : tables_->all) table.set_weight(weight, stream_of(table));
}

void DeviceTables::lerp() const {
  if (!tables_) return;
  for (const kernels::CudaTable& table : tables_->all) table.lerp(stream_of(table));
}

}  // namespace polyak
