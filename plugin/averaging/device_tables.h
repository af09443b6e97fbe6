#pragma once

#include <c10/core/Device.h>

#include <map>
#include <memory>
#include <vector>

#include "polyak/kernels/lerp.h"

namespace polyak {

/// The spans of one plan that kernels on GPUs take: a table for each device, one launch an update.
/// cuda_tables.cpp is the build with CUDA; in no_cuda_tables.cpp no device has a kernel.
class DeviceTables {
 public:
  static bool has_kernel(c10::Device device);

  void add(c10::Device device, const kernels::Span& span) {
    spans_[device.index()].push_back(span);
  }
  /// Puts what was added on its devices.
  void build();
  bool empty() const { return spans_.empty(); }

  /// Whether the current stream records a CUDA graph instead of working. A build without our
  /// kernel does not know.
  static bool is_capturing();
  /// Whether these are the other's tables, not others of the same tensors.
  bool is_same(const DeviceTables& other) const { return tables_ == other.tables_; }
  /// Sets the weight of what the current streams get from now on, at once or by replaying a graph.
  void set_weight(double weight) const;
  /// Averages, on the devices' current streams.
  void lerp() const;

 private:
  std::map<c10::DeviceIndex, std::vector<kernels::Span>> spans_;
  struct Tables;
  std::shared_ptr<Tables> tables_;
};

}  // namespace polyak
