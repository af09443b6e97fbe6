// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/registry/registry.h"

namespace polyak::cli {

/// Everything that this process can build from a config: the averages, the trainer's parts and the
/// built-in hooks. Filled at the first call, and never destroyed: plugins stay loaded until the
/// end.
/// @throws PluginError if the built-in hooks cannot be loaded
Catalog& registered();

}  // namespace polyak::cli
