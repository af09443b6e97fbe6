// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/registry/registry.h"

namespace polyak::cli {

/// A block of YAML with `type` and each key of an entry at its default, and its sentence above it:
/// ready to be pasted into a config. A required key has no value yet. Of an average, EMAHook's
/// block.
std::string yaml_block(const Catalog& catalog, const RegistryBase& registry,
                       const std::string& name);

}  // namespace polyak::cli
