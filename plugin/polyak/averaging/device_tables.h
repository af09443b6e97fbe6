// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>
#include <c10/util/ArrayRef.h>

#include <cstddef>
#include <map>
#include <memory>

#include "polyak/kernels/lerp_cuda_table.h"

namespace polyak {

/// What an update of one average does on each GPU that holds a part of it.
using DeviceRows = std::map<c10::DeviceIndex, kernels::CudaRow>;

/// The work of kernels on GPUs for several averages over one model, with a row for each average: a
/// table for each device, one launch per update. cuda_tables.cpp is the build with CUDA; in
/// no_cuda_tables.cpp, no device has a kernel.
class DeviceTables {
 public:
  static bool has_kernel(c10::Device device);
  /// Whether the current stream is capturing a CUDA graph. Always false in a build without our
  /// kernel.
  static bool is_capturing();

  /// Copies the rows to their devices.
  explicit DeviceTables(c10::ArrayRef<const DeviceRows*> rows);
  ~DeviceTables();
  DeviceTables(const DeviceTables&) = delete;
  DeviceTables& operator=(const DeviceTables&) = delete;

  size_t rows() const { return rows_; }
  /// Sets what rows from `first_row` on do in later work of the current streams, launched directly
  /// or by replaying a graph.
  void set_turns(size_t first_row, c10::ArrayRef<kernels::CudaTurn> turns) const;
  /// Averages and copies, on the devices' current streams.
  void update() const;

 private:
  size_t rows_;
  struct Tables;
  std::unique_ptr<Tables> tables_;
};

}  // namespace polyak
