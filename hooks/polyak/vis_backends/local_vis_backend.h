// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "polyak/config/options.h"
#include "polyak/runtime/vis_backend.h"

namespace polyak {

struct POLYAK_API LocalVisBackendOptions : Options {
  void visit(OptionVisitor& visitor) override;
};

/// Writes scalars.json, one JSON object a line, like MMEngine's LocalVisBackend. Each line is
/// written at once, and whole or not at all.
class POLYAK_API LocalVisBackend : public VisBackend {
 public:
  /// It has no options.
  explicit LocalVisBackend(const LocalVisBackendOptions& options = {});
  ~LocalVisBackend() override;
  /// @throws Error
  void open(const std::string& folder) override;
  void add_scalars(const Scalars& values, int64_t step) override;
  std::string file() const override { return "scalars.json"; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace polyak
