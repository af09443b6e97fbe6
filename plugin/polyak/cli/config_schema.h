// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "polyak/registry/registry.h"

namespace polyak::cli {

/// A JSON Schema (2020-12) of a training config with everything that a catalog can build, for
/// editors and checks. A config with `_base_` may leave out what its bases have, at any depth; one
/// without must be complete, as the resolved config that `polyak check` prints.
nlohmann::ordered_json config_schema(const Catalog& catalog);

}  // namespace polyak::cli
