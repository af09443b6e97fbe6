// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/config/node.h"

namespace polyak {

/// Reads a YAML file, merges it into the files that `_base_` names (a path or a list of paths,
/// relative to the file), and applies overrides of the form `a.b.0.c=value` in order.
///
/// Mappings are merged key by key; all other values replace those of the base. `_delete_: true` in
/// a mapping drops the base's mapping first. Bases of a file must not share a top-level key. `<<`
/// is merged as in YAML 1.1. Duplicate keys are an error. A file has at most 1 MiB, and a config at
/// most 100 bases.
/// @throws ConfigError with file:line:col if a file is missing or invalid, or the bases form a
/// cycle.
POLYAK_API Node load_config(const std::string& path,
                            const std::vector<std::string>& overrides = {});

/// The same for a text. `name` is used as the file name in messages, and `_base_` is relative to
/// its folder.
POLYAK_API Node parse_config(const std::string& text, const std::string& name = "<text>");

/// Applies one `a.b.0.c=value`. Values are parsed like those of MMEngine's --cfg-options: integers,
/// floats, true and false in any case, None and null, comma-separated lists, [..] and (..) lists,
/// which may be nested, and strings. Text in quotes, '..' or "..", alone or in a list, is a string
/// that keeps its blanks, commas and brackets: `name='"1, 2"'` in a shell. As in YAML, a quote is
/// doubled inside '..' and escaped by a backslash inside "..". A whole list in quotes, "[1, 2]", is
/// a list, as in MMEngine.
/// @throws ConfigError for an invalid key or value.
POLYAK_API void apply_override(Node& config, const std::string& assignment);
/// The same from another option of a command line, such as `--set`, which messages name.
POLYAK_API void apply_override(Node& config, const std::string& assignment,
                               const std::string& option);

}  // namespace polyak
