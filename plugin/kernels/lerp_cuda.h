#pragma once

#include <memory>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/kernels/lerp.h"

namespace polyak::kernels {

/// lerp() for arrays on one CUDA device: spans that were put on the device once, and a weight that
/// is kept there too. An update is set_weight() and lerp(): two launches, whatever the number of
/// spans; neither waits for the device, allocates, or reads the host's memory later.
///
/// Only where the library was built with CUDA. A `stream` is a cudaStream_t of the table's device,
/// null for the default one; work on different streams is for the caller to order. The caller's
/// current device stays as it was. Launching is safe from several threads. A table that was moved
/// from can only be assigned to or destroyed.
class POLYAK_API CudaTable {
 public:
  /// @param spans what lerp() takes, in memory that kernels on `device` can read and write, and
  ///   that stays valid as long as lerp() is called or a graph replayed. Sizes of 0 are fine.
  /// Allocates 32 bytes for each 4096 elements and each small span, and waits until the spans are
  /// there: not for the inside of a training step. Safe while a stream captures a graph.
  /// @throws Error naming what failed: no memory, or a device that this build has no code for.
  CudaTable(const std::vector<Span>& spans, int device);
  /// Waits until the device has done what uses the table. Graphs that captured lerp() must not be
  /// replayed after. Safe while the program ends.
  ~CudaTable();
  CudaTable(CudaTable&&) noexcept;
  CudaTable& operator=(CudaTable&&) noexcept;

  /// Sets the weight of each lerp() after this in the stream; it is 0 before. Captured into a graph
  /// it would set the same weight at each replay: call it before the replay instead.
  /// @throws Error when the launch fails.
  void set_weight(double weight, void* stream);

  /// The update of each span, in one launch: the bits that lerp() gives on the CPU, NaN's payload
  /// excepted. A graph that captured it reads the weight anew at each replay.
  /// @throws Error when the launch fails.
  void lerp(void* stream) const;

  int device() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polyak::kernels
