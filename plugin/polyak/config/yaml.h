// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "polyak/config/node.h"

// Internal to config: the only door to yaml-cpp.
namespace polyak {

/// The largest text that is parsed. A parser takes about 50 times that.
constexpr size_t kMostYaml = 1 << 20;

/// Parses one YAML document as it stands: anchors, aliases and `<<` resolved, nothing merged.
/// @throws ConfigError unless the text is one document whose top level is a mapping, of a sane
/// size.
Node parse_yaml(const std::string& written, const std::string& name);

}  // namespace polyak
