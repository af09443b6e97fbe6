// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>
#include <c10/util/ArrayRef.h>

#include <map>
#include <memory>

#include "polyak/kernels/lerp_cuda_table.h"

namespace polyak {

/// What an update of one average does on each GPU that has some of it.
using DeviceRows = std::map<c10::DeviceIndex, kernels::CudaRow>;

/// What kernels on GPUs do for several averages over one model, each a row: a table for each
/// device, one launch an update. cuda_tables.cpp is the build with CUDA; in no_cuda_tables.cpp no
/// device has a kernel.
class DeviceTables {
 public:
  static bool has_kernel(c10::Device device);
  /// Whether the current stream records a CUDA graph instead of working. A build without our
  /// kernel does not know.
  static bool is_capturing();

  /// Puts the rows on their devices.
  explicit DeviceTables(c10::ArrayRef<const DeviceRows*> rows);
  ~DeviceTables();
  DeviceTables(const DeviceTables&) = delete;
  DeviceTables& operator=(const DeviceTables&) = delete;

  size_t rows() const { return rows_; }
  /// Says what rows from `first_row` on do in what the current streams get from now on, at once or
  /// by replaying a graph.
  void set_turns(size_t first_row, c10::ArrayRef<kernels::CudaTurn> turns) const;
  /// Averages and copies, on the devices' current streams.
  void update() const;

 private:
  size_t rows_;
  struct Tables;
  std::unique_ptr<Tables> tables_;
};

}  // namespace polyak
