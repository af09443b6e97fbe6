// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/config/node.h"

// Internal to config: what a file does to its base.
namespace polyak {

constexpr const char* kBaseKey = "_base_";
constexpr const char* kDeleteKey = "_delete_";

/// The base with the child on top: mappings merge, everything else replaces. `_delete_` is obeyed
/// and taken out. Values keep their places, so a message shows the file that wrote the value.
Node merge(const Node& base, const Node& child);

}  // namespace polyak
