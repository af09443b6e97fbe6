// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "polyak/core/export.h"
#include "polyak/runtime/progress.h"

namespace polyak {

/// Where the numbers of a run go beside its log: a file, or a service. LoggerHook calls it, in the
/// training thread of process 0. What it throws ends it, with a warning, and not the run.
class POLYAK_API VisBackend {
 public:
  static constexpr const char* kKind = "vis backend";  // for messages and `polyak list`
  struct Context {};
  virtual ~VisBackend();
  /// Before the first numbers.
  /// @param folder for its files, which exists: WORK_DIR/TIMESTAMP/vis_data
  virtual void open(const std::string& folder) = 0;
  /// Numbers of a training iteration or of an evaluation; a resumed run begins with those of the
  /// run before.
  /// @param values by name: `loss`, `lr`, `ema_momentum`, `accuracy/top1`
  /// @param step iterations so far; of an evaluation also epochs
  virtual void add_scalars(const Scalars& values, int64_t step) = 0;
  /// The file in the folder from which a resumed run reads the numbers again: JSON lines, with a
  /// `step` each. "": none.
  virtual std::string file() const { return ""; }
};

}  // namespace polyak
