// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "polyak/cli/commands.h"
#include "polyak/cli/streams.h"
#include "polyak/config/nearest.h"
#include "polyak/core/error.h"
#include "polyak/version.h"

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;

void add_config(CLI::App* command, polyak::cli::RunArguments& arguments) {
  command->add_option("config", arguments.config, "YAML file")->required();
  command
      ->add_option(
          "--cfg-options", arguments.overrides,
          "Settings that go before the file's: a.b.0.c=value. Lists: 1,2 or [1,2]; a string "
          "with commas or blanks at its ends stands in quotes of its own: name='\"a,b\"'")
      ->expected(1, -1);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace polyak;
  cli::guard_streams();
  CLI::App app{"Polyak: weight averaging for C++ training", "polyak"};
  app.set_version_flag("--version", "polyak " POLYAK_VERSION " with LibTorch " TORCH_VERSION);
  app.require_subcommand(1);
  bool debug = false;
  app.add_flag("--debug", debug,
               "Show LibTorch's whole message, with its backtrace, when something fails");
  app.fallthrough();

  cli::RunArguments arguments;
  std::string kind, name, format = "text";
  int status = 0;

  CLI::App* train = app.add_subcommand("train", "Train what a config describes");
  add_config(train, arguments);
  train->add_option("--work-dir", arguments.work_dir, "Where logs and checkpoints go");
  train->add_option("--load-from", arguments.load_from, "Start from the weights of a checkpoint");
  CLI::Option* resume = train
                            ->add_option("--resume", arguments.resume_from,
                                         "Go on from a checkpoint, or from the last one")
                            ->expected(0, 1);
  train->callback([&] {
    arguments.resume = resume->count() > 0;
    status = cli::train(arguments);
  });

  CLI::App* test = app.add_subcommand("test", "Measure a checkpoint on the config's test data");
  add_config(test, arguments);
  test->add_option("checkpoint", arguments.checkpoint, "A .pth file")->required();
  test->add_option("--work-dir", arguments.work_dir, "Where logs go");
  test->callback([&] { status = cli::test(arguments); });

  CLI::App* check = app.add_subcommand(
      "check", "Everything but the training; prints the config with all that it inherits");
  add_config(check, arguments);
  check->callback([&] { status = cli::check(arguments); });

  cli::AttachArguments attached;
  CLI::App* attach = app.add_subcommand(
      "attach",
      "Run a compiled LibTorch program with averaging: attach CONFIG -- PROGRAM [ARG ...]");
  attach->add_option("config", attached.config, "YAML file")->required();
  attach->add_option("--cfg-options", attached.overrides, "Settings that go before the file's")
      ->expected(1, -1);
  attach->callback([&] {
    if (attached.program.empty()) {
      fail<ConfigError>("attach: no program; write it after two dashes: attach {} -- PROGRAM",
                        attached.config);
    }
    cli::attach(attached);
  });

  CLI::App* list = app.add_subcommand("list", "Show what a config can name");
  list->add_option("kind", kind, "hook, average, optimizer, ...; all kinds without it");
  list->callback([&] { status = cli::list(kind); });

  CLI::App* describe =
      app.add_subcommand("describe", "Show the keys of something that a config can name");
  describe->add_option("name", name, "e.g. EMAHook")->required();
  describe->add_option("--format", format, "text, markdown or json")
      ->check(CLI::IsMember({"text", "markdown", "json"}));
  describe->callback([&] { status = cli::describe(name, format); });

  // What stands behind two dashes is a program's own.
  if (argc > 1 && std::string(argv[1]) == "attach") {
    char** const dashes =
        std::find_if(argv, argv + argc, [](const char* word) { return std::string(word) == "--"; });
    if (dashes != argv + argc) attached.program.assign(dashes + 1, argv + argc);
    argc = static_cast<int>(dashes - argv);
  }
  if (argc > 1 && argv[1][0] != '-') {  // CLI11 says of a misspelt command only that one is needed
    std::vector<std::string> names;
    for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
    if (std::find(names.begin(), names.end(), argv[1]) == names.end()) {
      const std::string near = nearest_name(argv[1], names);
      cli::print_error(fmt::format("polyak: no command is named '{}'; {}they are {}\n", argv[1],
                                   near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                                   fmt::join(names, ", ")));
      return kWrongUse;
    }
  }
  try {
    app.parse(argc, argv);
    return cli::finish_output(status);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? cli::finish_output(0) : kWrongUse;
  } catch (const ConfigError& error) {
    cli::print_error(fmt::format("polyak: {}\n", error.what()));
    return kWrongUse;
  } catch (const PluginError& error) {
    cli::print_error(fmt::format("polyak: {}\n", error.what()));
    return kWrongUse;
  } catch (const Error& error) {
    cli::print_error(fmt::format("polyak: {}\n", error.what()));
    return kFailed;
  } catch (const std::exception& error) {
    cli::print_error(fmt::format("polyak: {}\n", debug ? error.what() : first_line(error)));
    return kFailed;
  }
}
