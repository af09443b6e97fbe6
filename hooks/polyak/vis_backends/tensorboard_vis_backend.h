// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fstream>
#include <string>

#include "polyak/config/options.h"
#include "polyak/runtime/vis_backend.h"

namespace polyak {

struct POLYAK_API TensorboardVisBackendOptions : Options {
  void visit(OptionVisitor& visitor) override;
};

/// Writes an event file that TensorBoard shows: `tensorboard --logdir WORK_DIR`. Numbers are
/// float32 there. The format: TensorFlow's record files (a length, the data, a masked CRC-32C of
/// each) of serialised tensorflow.Event messages, of which this needs five fields.
class POLYAK_API TensorboardVisBackend : public VisBackend {
 public:
  /// It has no options.
  explicit TensorboardVisBackend(const TensorboardVisBackendOptions& options = {});
  ~TensorboardVisBackend() override;
  /// @throws Error
  void open(const std::string& folder) override;
  void add_scalars(const Scalars& values, int64_t step) override;

 private:
  void write(const std::string& event);

  std::string name_;
  std::ofstream file_;
};

}  // namespace polyak
