// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/kernels/lerp_cuda_table.h"

namespace polyak::kernels {

/// The work of several averages in an update, for arrays on one CUDA device. The device holds a
/// table of spans and copies, one row for each average, and the rows' weights. An update is
/// set_turns() and update(): two launches for any number of arrays and up to 32 averages. A source
/// that averages share is read from memory once. Neither call waits for the device, allocates, or
/// reads host memory after it returns.
///
/// Only available if the library was built with CUDA. A `stream` is a cudaStream_t of the table's
/// device, null for the default one; the caller orders work on different streams. The caller's
/// current device is restored. Launching is safe from several threads. A moved-from table can only
/// be assigned to or destroyed.
class CudaTable {
 public:
  /// Allocates 32 bytes per row for each 4096 elements, each 4096 bytes to copy, and each small
  /// span, and waits for their upload: do not call it inside a training step. Safe while a stream
  /// captures a graph.
  /// @param rows spans as lerp() takes them, and copies. Kernels on `device` must be able to read
  ///   and write the memory, which must stay valid while update() is called or a graph is replayed.
  ///   Arrays that are written must not overlap others. Sizes of 0 are allowed.
  /// @throws Error if memory runs out, or this build has no code for the device.
  CudaTable(const std::vector<CudaRow>& rows, int device);
  /// Waits until the device no longer uses the table. Graphs that captured update() must not be
  /// replayed afterwards. Safe at program exit.
  ~CudaTable();
  CudaTable(CudaTable&&) noexcept;
  CudaTable& operator=(CudaTable&&) noexcept;

  /// Sets what rows `first_row` to `first_row + count - 1` do at each later update() in the stream.
  /// Rows do nothing before the first call. Call it before a graph's replay, not inside the
  /// capture, where it would set the same turns at each replay.
  /// @throws Error if the launch fails or the table has fewer rows.
  void set_turns(size_t first_row, const CudaTurn* turns, size_t count, void* stream);

  /// Averages and copies in one launch, with the same bits as lerp() on the CPU except for NaN
  /// payloads. A captured graph reads the turns again at each replay.
  /// @throws Error if the launch fails.
  void update(void* stream) const;

  int device() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polyak::kernels
