// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "polyak/core/error.h"
#include "polyak/core/export.h"

namespace polyak {

/// Another process of a run ended, cannot be reached, or does not fit this one.
class POLYAK_API ProcessGroupError : public Error {
 public:
  using Error::Error;
  ~ProcessGroupError() override;
};

/// The processes that train one model together, each with the same weights. polyak/distributed/
/// makes one over LibTorch's c10d; a host with another engine derives its own.
///
/// Each operation is called by every process, in the same order, with tensors of the same shape,
/// dtype and kind of device; contiguous ones. `what` names it in errors: "gathering an average".
/// Not thread-safe.
class POLYAK_API ProcessGroup {
 public:
  virtual ~ProcessGroup();

  /// From 0. Process 0 writes the files of a run.
  virtual int64_t rank() const = 0;
  /// How many processes there are.
  virtual int64_t size() const = 0;
  bool is_main() const { return rank() == 0; }

  /// Replaces the numbers by their sums over all processes.
  /// @throws ProcessGroupError, as all operations do
  void all_reduce(const at::Tensor& tensor, const char* what);
  /// Replaces the numbers by those of process `root`.
  void broadcast(const at::Tensor& tensor, int64_t root, const char* what);
  /// @return the tensors of all processes, by rank
  std::vector<at::Tensor> all_gather(const at::Tensor& tensor, const char* what);
  /// Returns when all processes have called it.
  void barrier(const char* what);

  /// Bytes that this process has handed to these operations so far.
  int64_t bytes() const { return bytes_; }

 protected:
  /// Replaces the numbers by their sums over all processes. `what` is for its error.
  virtual void do_all_reduce(const at::Tensor& tensor, const char* what) = 0;
  /// Copies the bytes of process `root`, of which there is at least one.
  virtual void do_broadcast(const at::Tensor& tensor, int64_t root, const char* what) = 0;
  /// Copies the bytes of process i into the i-th of `all`.
  virtual void do_all_gather(const std::vector<at::Tensor>& all, const at::Tensor& tensor,
                             const char* what) = 0;

 private:
  int64_t bytes_ = 0;
};

/// How many processes there are; 1 for a null pointer.
inline int64_t size_of(const ProcessGroup* processes) {
  return processes ? processes->size() : 1;
}
/// Whether this process writes the files of a run; true for a null pointer.
inline bool is_main(const ProcessGroup* processes) {
  return !processes || processes->is_main();
}

}  // namespace polyak
