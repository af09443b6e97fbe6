// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/config/node.h"
#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/registry/registry.h"

namespace polyak {

/// Reads the options of a block, and those of every block below it, which may stand in any of a
/// catalog's registries. Builds nothing, so that all that a config says wrong in itself is known
/// before the first file is read. The options of the blocks below are read again where they are
/// used.
/// @param owner who takes the keys, for messages
/// @throws ProblemsError with everything that is wrong
POLYAK_API void read_all_options(const Node& node, Options& options, const std::string& owner,
                                 const Catalog& catalog);

}  // namespace polyak
