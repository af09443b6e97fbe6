// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// The candidate closest to a misspelt name, or "" if none is close.
POLYAK_API std::string nearest_name(const std::string& name,
                                    const std::vector<std::string>& candidates);

}  // namespace polyak
