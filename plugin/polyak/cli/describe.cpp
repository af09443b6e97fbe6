// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/streams.h"
#include "polyak/cli/yaml_block.h"
#include "polyak/config/nearest.h"
#include "polyak/core/error.h"
#include "polyak/registry/registry.h"

namespace polyak::cli {
namespace {

struct DescribeArguments {
  std::vector<std::string> names;
  std::string format = "text";
  PluginArguments plugins;
};

void describe_text(const std::string& name, const RegistryBase::Description& description) {
  print("{}: {}\n\n", name, description.doc);
  for (const KeyDescription& key : description.keys) {
    if (key.rest) {
      print("  ...\n      {}\n", key.doc);
      continue;
    }
    print("  {}: {}{}\n      {}{}\n", key.name, key.type,
          key.required ? ", required" : fmt::format(", default {}", key.default_value), key.doc,
          key.range.empty() ? "" : fmt::format(" Must be {}.", key.range));
  }
}

void describe_markdown(const std::string& name, const RegistryBase::Description& description) {
  print("### {}\n\n{}\n\n| key | type | default | range | meaning |\n|---|---|---|---|---|\n", name,
        description.doc);
  for (const KeyDescription& key : description.keys) {
    print("| `{}` | {} | {} | {} | {} |\n", key.name, key.type,
          key.required ? "required"
          : key.rest   ? ""
                       : fmt::format("`{}`", key.default_value),
          key.range, key.doc);
  }
  print("\n");
}

void describe_json(const std::string& kind, const std::string& name,
                   const RegistryBase::Description& description) {
  nlohmann::ordered_json json{{"kind", kind}, {"name", name}, {"doc", description.doc}};
  json["keys"] = nlohmann::ordered_json::array();
  for (const KeyDescription& key : description.keys) {
    nlohmann::ordered_json entry{{"name", key.name}, {"type", key.type}, {"doc", key.doc}};
    key.required ? entry["required"] = true : entry["default"] = key.default_value;
    if (!key.range.empty()) entry["range"] = key.range;
    json["keys"].push_back(entry);
  }
  print("{}\n", json.dump(2));
}

void describe(const Catalog& catalog, const std::string& name, const std::string& format) {
  std::vector<std::string> names;
  bool found = false;
  for (const RegistryBase* registry : catalog.all()) {
    for (const std::string& known : registry->names()) names.push_back(known);
    if (!registry->contains(name)) continue;
    found = true;
    const RegistryBase::Description description = registry->describe(name);
    if (format == "markdown") {
      describe_markdown(name, description);
    } else if (format == "yaml") {
      print("{}", yaml_block(catalog, *registry, name));
    } else if (format == "json") {
      describe_json(registry->kind(), name, description);
    } else {
      describe_text(name, description);
    }
  }
  if (!found) {
    const std::string near = nearest_name(name, names);
    fail<ConfigError>("nothing is named '{}'; {}`polyak list` shows all names", name,
                      near.empty() ? "" : fmt::format("did you mean '{}'? ", near));
  }
}

int describe(const DescribeArguments& arguments) {
  const Catalog& catalog = registered_with(arguments.plugins);
  for (const std::string& name : arguments.names) describe(catalog, name, arguments.format);
  return 0;
}

}  // namespace

void add_describe(CLI::App& app, int& status) {
  CLI::App* command =
      app.add_subcommand("describe", "Show the keys of a hook, average, optimizer, ...");
  auto arguments = std::make_shared<DescribeArguments>();
  command->add_option("name", arguments->names, "e.g. EMAHook; or several")
      ->type_name(kName)
      ->required();
  command
      ->add_option("--format", arguments->format, "text, markdown, json, or yaml: a block to paste")
      ->check(CLI::IsMember({"text", "markdown", "json", "yaml"}));
  add_plugins(*command, arguments->plugins);
  command->callback([arguments, &status] { status = describe(*arguments); });
}

}  // namespace polyak::cli
