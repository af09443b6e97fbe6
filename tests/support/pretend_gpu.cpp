// SPDX-License-Identifier: Apache-2.0
#include "support/pretend_gpu.h"

#include "polyak/averaging/device_tables.h"
#include "polyak/core/error.h"
#include "polyak/kernels/lerp_cuda_loops.h"

namespace polyak {
namespace {

size_t launches = 0;
bool capturing = false;
bool refusing = false;
test::PretendGpu::Graph recorded;

}  // namespace

struct DeviceTables::Tables {
  kernels::CudaPieces pieces;
  std::vector<kernels::CudaTurn> turns;
};

bool DeviceTables::has_kernel(c10::Device device) {
  return device.is_cpu();
}

bool DeviceTables::is_capturing() {
  return capturing;
}

DeviceTables::DeviceTables(c10::ArrayRef<const DeviceRows*> rows)
    : rows_(rows.size()), tables_(std::make_unique<Tables>()) {
  if (refusing) fail<Error>("no room");
  std::vector<kernels::CudaRow> there;
  for (const DeviceRows* row : rows) there.push_back(row->at(c10::Device(c10::kCPU).index()));
  tables_->pieces = kernels::split_for_cuda(there);
  tables_->turns.resize(rows.size());
}

DeviceTables::~DeviceTables() = default;

void DeviceTables::set_turns(size_t first_row, c10::ArrayRef<kernels::CudaTurn> turns) const {
  for (size_t i = 0; i < turns.size(); ++i) tables_->turns.at(first_row + i) = turns[i];
}

void DeviceTables::update() const {
  ++launches;
  if (capturing) {
    recorded.push_back(this);
    return;
  }
  const kernels::CudaPieces& pieces = tables_->pieces;
  const kernels::CudaLaunch launch{pieces.all.data(),
                                   tables_->turns.data(),
                                   static_cast<uint32_t>(pieces.rows),
                                   static_cast<uint32_t>(pieces.columns),
                                   static_cast<uint32_t>(pieces.for_blocks),
                                   static_cast<uint32_t>(pieces.copies_from)};
  for (uint32_t block = 0; block < pieces.blocks(); ++block) {
    for (uint32_t thread = 0; thread < kernels::kCudaThreads; ++thread) {
      kernels::lerp_thread(launch, block, thread);
    }
  }
}

namespace test {

size_t PretendGpu::launches() {
  return polyak::launches;
}
void PretendGpu::begin_capture() {
  recorded.clear();
  capturing = true;
}
PretendGpu::Graph PretendGpu::end_capture() {
  capturing = false;
  return recorded;
}
void PretendGpu::replay(const Graph& graph) {
  for (const DeviceTables* tables : graph) tables->update();
}
void PretendGpu::refuse_tables(bool refuse) {
  refusing = refuse;
}

}  // namespace test
}  // namespace polyak
