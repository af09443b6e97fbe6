// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/kernels/lerp_cuda_table.h"

namespace polyak::kernels {

/// What several averages do in an update, for arrays on one CUDA device: spans and copies that were
/// put on the device once, a row for each average, and the rows' weights, which are kept there too.
/// An update is set_turns() and update(): two launches, whatever the number of arrays, and for up
/// to 32 averages; a source that several of them have is read from memory once. Neither waits for
/// the device, allocates, or reads the host's memory later.
///
/// Only where the library was built with CUDA. A `stream` is a cudaStream_t of the table's device,
/// null for the default one; work on different streams is for the caller to order. The caller's
/// current device stays as it was. Launching is safe from several threads. A table that was moved
/// from can only be assigned to or destroyed.
class POLYAK_API CudaTable {
 public:
  /// @param rows each with spans as lerp() takes them, and copies, in memory that kernels on
  ///   `device` can read and write, and that stays valid as long as update() is called or a graph
  ///   replayed. No array that is written may overlap another. Sizes of 0 are fine.
  /// Allocates 32 bytes a row for each 4096 elements, each 4096 bytes to copy, and each small span,
  /// and waits until they are there: not for the inside of a training step. Safe while a stream
  /// captures a graph.
  /// @throws Error naming what failed: no memory, or a device that this build has no code for.
  CudaTable(const std::vector<CudaRow>& rows, int device);
  /// Waits until the device has done what uses the table. Graphs that captured update() must not be
  /// replayed after. Safe while the program ends.
  ~CudaTable();
  CudaTable(CudaTable&&) noexcept;
  CudaTable& operator=(CudaTable&&) noexcept;

  /// Says what rows `first_row` to `first_row + count - 1` do at each update() after this in the
  /// stream; nothing before. Captured into a graph it would say the same at each replay: call it
  /// before the replay instead.
  /// @throws Error when the launch fails, or the table has fewer rows.
  void set_turns(size_t first_row, const CudaTurn* turns, size_t count, void* stream);

  /// Averages and copies, in one launch: the bits that lerp() gives on the CPU, NaN's payload
  /// excepted. A graph that captured it reads the turns anew at each replay.
  /// @throws Error when the launch fails.
  void update(void* stream) const;

  int device() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polyak::kernels
