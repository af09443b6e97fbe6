// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/registry/registry.h"

namespace polyak {

/// Where a plugin's name leads: a name with a slash is a path (relative to `base_folder`); a bare
/// name such as `polyak_hooks` is lib<name>.so in the folder of libpolyak.so, then in the folders
/// of POLYAK_PLUGIN_PATH. Never the current folder by accident.
/// @throws PluginError listing where it looked.
POLYAK_API std::string find_plugin(const std::string& name, const std::string& base_folder);

/// Loads a shared library and lets it register what it brings. All or nothing: when anything is
/// wrong, nothing is registered and the library is closed again. An accepted one stays until the
/// process ends; loading it again into the same catalog changes nothing.
/// @throws PluginError naming the file, what is wrong (both versions where they differ) and what to
/// do.
POLYAK_API void load_plugin(const std::string& path, Catalog& catalog);

/// Loads what a config's key `plugins` names, a string or a list of them. A path is relative to the
/// file that wrote it, which may be a base of the config's.
/// @throws PluginError as the two above, with the place in the config before it
POLYAK_API void load_plugins(const Node& config, Catalog& catalog);

/// Makes the paths of a config's key `plugins` absolute, so that the config means the same wherever
/// it is written to. Bare names stay: they are looked up.
POLYAK_API void make_plugin_paths_absolute(Node& config);

}  // namespace polyak
