// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/registry/registry.h"

namespace polyak {

/// The file of a plugin. A name with a slash is a path, relative to `base_folder`. A bare name such
/// as `polyak_hooks` is lib<name>.so in the folder of libpolyak.so or in the folders of
/// POLYAK_PLUGIN_PATH, but never in the current folder.
/// @throws PluginError listing the searched files.
POLYAK_API std::string find_plugin(const std::string& name, const std::string& base_folder);

/// Loads a shared library and calls its registration function. On any error nothing is registered
/// and the library is closed again. A loaded library stays loaded until the process ends; loading
/// it again into the same catalog has no effect. Safe from any thread for different catalogs.
/// @throws PluginError with the file, what is wrong (both versions, if they differ) and the remedy.
POLYAK_API void load_plugin(const std::string& path, Catalog& catalog);

/// Loads the plugins of a config's key `plugins`, a string or a list of strings. A path is relative
/// to the file that contains it, which may be a base of the config.
/// @throws PluginError like the two functions above, with the place in the config
POLYAK_API void load_plugins(const Node& config, Catalog& catalog);

/// Makes the paths in a config's key `plugins` absolute, so that the config can be saved elsewhere.
/// Bare names do not change.
POLYAK_API void make_plugin_paths_absolute(Node& config);

}  // namespace polyak
