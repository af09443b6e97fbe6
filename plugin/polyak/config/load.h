// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/config/node.h"

namespace polyak {

/// Reads a YAML file, merges what its `_base_` names (a path or a list of paths, relative to the
/// file) and applies overrides of the form `a.b.0.c=value` in order.
///
/// Child into base: mappings merge key by key, everything else replaces; `_delete_: true` in a
/// mapping drops the base's mapping first. Two bases must not share a top-level key. `<<` is merged
/// as YAML 1.1 says, duplicate keys are refused. A file may have 1 MiB, and a config 100 bases.
/// @throws ConfigError with file:line:col for anything that is wrong, from a missing file to a
/// cycle.
POLYAK_API Node load_config(const std::string& path,
                            const std::vector<std::string>& overrides = {});

/// The same for a text; `name` stands for the file in messages and for the folder of `_base_`.
POLYAK_API Node parse_config(const std::string& text, const std::string& name = "<text>");

/// Applies one `a.b.0.c=value`. Values are read as MMEngine's --cfg-options does: integers, floats,
/// true / false in any case, None (and null), comma lists, [..] and (..) lists, nested, else
/// strings. What stands in quotes, '..' or "..", alone or in a list, is a string with all its
/// blanks, commas and brackets: `name='"1, 2"'` in a shell. As in YAML, a quote inside is doubled
/// in '..' and has a backslash in "..". Only a whole list in quotes, "[1, 2]", is a list, as in
/// MMEngine.
POLYAK_API void apply_override(Node& config, const std::string& assignment);

}  // namespace polyak
