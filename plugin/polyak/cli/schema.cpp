// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>

#include "polyak/cli/commands.h"
#include "polyak/cli/config_schema.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/streams.h"

namespace polyak::cli {

void add_schema(CLI::App& app, int& status) {
  CLI::App* command =
      app.add_subcommand("schema", "Print a JSON Schema of training configs, for editors");
  auto plugins = std::make_shared<PluginArguments>();
  add_plugins(*command, *plugins);
  command->callback([plugins, &status] {
    print("{}\n", config_schema(registered_with(*plugins)).dump(1));
    status = 0;
  });
}

}  // namespace polyak::cli
