// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace polyak {
class DeviceTables;
}

// The kernel's table and threads on the CPU, in the place of a GPU's: to a program with
// pretend_gpu.cpp instead of the floors' own cuda_tables.cpp, the CPU is a device with our kernel.
// So a machine without a GPU tests what averages make of tables, launches and graphs.
namespace polyak::test {

class PretendGpu {
 public:
  using Graph = std::vector<const DeviceTables*>;

  static size_t launches();
  /// From here on launches are recorded and not done.
  static void begin_capture();
  static Graph end_capture();
  /// Does what was recorded, with what has become of the tables' turns.
  static void replay(const Graph& graph);
  /// As if memory had run out.
  static void refuse_tables(bool refuse);
};

}  // namespace polyak::test
