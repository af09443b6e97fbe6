// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/trainer/optimizer.h"

namespace polyak {

/// Checks that a checkpoint's optimizer state can be loaded into the config's optimizer: it must
/// have the same type (with `numbers_of_config`, Adam and AdamW are interchangeable), and its
/// tensors must fit. Reorders the state to match the config's optimizer (match_state()).
/// @throws CheckpointError naming the file, both types, and what to do
void take_over_optimizer(const Optimizer& optimizer, Value& checkpoint, const Node& config,
                         bool numbers_of_config, const std::string& file);

/// Logs the differences between the config and the checkpoint, if any, in one line each: the
/// optimizer's numbers (lr, momentum, ...), and whose are used; and other training keys, where the
/// config's are used. Call it before the optimizer loads the checkpoint's numbers.
void log_resumed_differences(const Optimizer& optimizer, const Value& checkpoint,
                             const Node& config, bool numbers_of_config);

}  // namespace polyak
