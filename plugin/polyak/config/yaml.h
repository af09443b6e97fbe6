// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "polyak/config/node.h"

// Internal to config: the only use of yaml-cpp.
namespace polyak {

/// Bytes of the largest text that is parsed. Parsing takes about 50 times as much memory.
constexpr size_t kMostYaml = 1 << 20;

/// Parses one YAML document. Resolves anchors, aliases and `<<`, but merges no bases.
/// @throws ConfigError unless the text is a single document of limited size with a mapping at the
/// top level.
Node parse_yaml(const std::string& written, const std::string& name);

}  // namespace polyak
