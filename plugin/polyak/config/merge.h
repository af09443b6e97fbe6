// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/config/node.h"

// Internal to config: merging a file into its base.
namespace polyak {

constexpr const char* kBaseKey = "_base_";
constexpr const char* kDeleteKey = "_delete_";

/// The base merged with the child: mappings are merged, all other values replaced. `_delete_` is
/// applied and removed. Values keep their places, so messages show the file that set the value.
Node merge(const Node& base, const Node& child);

}  // namespace polyak
