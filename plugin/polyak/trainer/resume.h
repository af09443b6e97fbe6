// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/trainer/optimizer.h"

namespace polyak {

/// Makes sure that a checkpoint's optimizer can go on as the config's: that it is of the same type,
/// or, with `numbers_of_config`, the other of Adam and AdamW, and that its tensors fit. Puts its
/// state into the order of the config's (match_optimizer_state()).
/// @throws CheckpointError naming the file, both types, and what to do
void take_over_optimizer(const Optimizer& optimizer, Value& checkpoint, const Node& config,
                         bool numbers_of_config, const std::string& file);

/// Says in one line each, where there is something to say: which of the optimizer's numbers (lr,
/// momentum, ...) differ between the config and the checkpoint, and whose go on; and which other
/// keys of training differ, of which the config's go on. Call it before the optimizer takes the
/// checkpoint's numbers.
void log_resumed_differences(const Optimizer& optimizer, const Value& checkpoint,
                             const Node& config, bool numbers_of_config);

}  // namespace polyak
