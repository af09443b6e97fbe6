// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/registered.h"

#include <CLI/CLI.hpp>

#include <memory>

#include "polyak/averaging/register.h"
#include "polyak/cli/command_text.h"
#include "polyak/config/load.h"
#include "polyak/loader/loader.h"
#include "polyak/trainer/register_trainer.h"

namespace polyak::cli {

Catalog& registered() {
  static Catalog& instance = []() -> Catalog& {
    auto catalog = std::make_unique<Catalog>();
    register_averages(*catalog);
    register_trainer(*catalog);
    load_plugin(find_plugin("polyak_hooks", ""), *catalog);
    return *catalog.release();
  }();
  return instance;
}

void add_plugins(CLI::App& command, PluginArguments& arguments) {
  command.add_option("--config", arguments.config, "A config whose plugins are loaded, too")
      ->type_name(kFile);
  command.add_option("--plugin", arguments.plugins, "A plugin's path or name; may be repeated")
      ->type_name(kFile);
}

Catalog& registered_with(const PluginArguments& arguments) {
  Catalog& catalog = registered();
  if (!arguments.config.empty()) load_plugins(load_config(arguments.config), catalog);
  for (const std::string& plugin : arguments.plugins) {
    load_plugin(find_plugin(plugin, "."), catalog);
  }
  return catalog;
}

}  // namespace polyak::cli
