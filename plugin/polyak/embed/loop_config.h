// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "polyak/config/node.h"
#include "polyak/config/options.h"
#include "polyak/runtime/run_loop.h"

namespace polyak {

/// The keys of a loop's config file.
struct LoopConfig : Options {
  Node custom_hooks, default_hooks;
  std::vector<std::string> plugins;
  std::optional<std::string> work_dir;
  std::optional<int64_t> max_epochs, max_iters;

  void visit(OptionVisitor& visitor) override;

  /// The hooks in the order of their registration.
  std::vector<Node> hooks() const;
};

/// The length that the program states in code.
struct StatedLength {
  std::optional<int64_t> max_epochs, epoch_length, max_iters, batch_size;
  int64_t accumulative_counts = 1;
};

/// The length of a run: as the program states it, or else the file.
/// @param node the node that `config` was read from, for errors
/// @throws ConfigError for lengths that contradict each other or are out of range
RunLength length_of_loop(const StatedLength& stated, const LoopConfig& config, const Node& node);

}  // namespace polyak
