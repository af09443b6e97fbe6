// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/registry/registry.h"

namespace CLI {
class App;
}

namespace polyak::cli {

/// Everything that this process can build from a config: the averages, the trainer's parts and the
/// built-in hooks. Filled at the first call, and never destroyed: plugins stay loaded until the
/// end.
/// @throws PluginError if the built-in hooks cannot be loaded
Catalog& registered();

/// The plugins that a command should know beside them.
struct PluginArguments {
  std::string config;                // loads the plugins that it names
  std::vector<std::string> plugins;  // paths or names
};

/// Adds `--config` and `--plugin` to a command.
void add_plugins(CLI::App& command, PluginArguments& arguments);

/// registered(), with these plugins.
/// @throws ConfigError, PluginError
Catalog& registered_with(const PluginArguments& arguments);

}  // namespace polyak::cli
