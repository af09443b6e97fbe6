#pragma once

#include <string>

#include "polyak/config/node.h"

// Internal to config: the only door to yaml-cpp.
namespace polyak {

/// Parses one YAML document as it stands: anchors, aliases and `<<` resolved, nothing merged.
/// @throws ConfigError unless the text is one document whose top level is a mapping.
Node parse_yaml(const std::string& written, const std::string& name);

}  // namespace polyak
