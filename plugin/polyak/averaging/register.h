// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/core/export.h"
#include "polyak/registry/registry.h"

namespace polyak {

/// Registers the averages of this library.
POLYAK_API void register_averages(Catalog& catalog);

}  // namespace polyak
