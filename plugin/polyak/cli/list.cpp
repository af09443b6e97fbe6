// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <memory>
#include <string>
#include <vector>

#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/streams.h"
#include "polyak/config/nearest.h"
#include "polyak/core/error.h"
#include "polyak/registry/registry.h"

namespace polyak::cli {
namespace {

int list(const std::string& kind, const PluginArguments& plugins) {
  std::vector<std::string> kinds;
  bool found = false;
  for (const RegistryBase* registry : registered_with(plugins).all()) {
    kinds.push_back(registry->kind());
    if (!kind.empty() && kind != registry->kind()) continue;
    found = true;
    print("{}\n", registry->kind());
    for (const std::string& name : registry->names()) {
      print("  {:<26} {}\n", name, registry->describe(name).doc);
    }
  }
  if (!found) {
    const std::string near = nearest_name(kind, kinds);
    fail<ConfigError>("no kind is named '{}'; {}the kinds are: {}", kind,
                      near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                      fmt::join(kinds, ", "));
  }
  return 0;
}

}  // namespace

void add_list(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("list", "List everything that a config can name");
  auto kind = std::make_shared<std::string>();
  auto plugins = std::make_shared<PluginArguments>();
  command->add_option("kind", *kind, "hook, average, optimizer, ...; default: all kinds")
      ->type_name(kKind);
  add_plugins(*command, *plugins);
  command->callback([kind, plugins, &status] { status = list(*kind, *plugins); });
}

}  // namespace polyak::cli
