// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/checkpoint/pickle_nodes.h"

namespace polyak::pickle {

/// The object and all that it refers to, as a tree of values.
/// @throws CheckpointError with the key path, for what is nested too deep or repeated too often
Value to_value(Node& root, Budget& budget);

}  // namespace polyak::pickle
