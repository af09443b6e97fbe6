// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// Whether larger values of a metric are better, by parts of its name, as MMEngine infers it;
/// nothing if the name does not say.
POLYAK_API std::optional<bool> larger_is_better(const std::string& metric);

}  // namespace polyak
