// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <string>
#include <vector>

#include "polyak/cli/commands.h"
#include "polyak/cli/streams.h"
#include "polyak/config/nearest.h"
#include "polyak/config/problems.h"
#include "polyak/core/error.h"
#include "polyak/version.h"

namespace {

constexpr int kFailed = 1;
constexpr int kWrongUse = 2;

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

  // Everything after two dashes belongs to the program.
  std::vector<char*> program;
  if (argc > 1 && std::string(argv[1]) == "attach") {
    char** const dashes =
        std::find_if(argv, argv + argc, [](const char* word) { return std::string(word) == "--"; });
    if (dashes != argv + argc) program.assign(dashes + 1, argv + argc);
    argc = static_cast<int>(dashes - argv);
  }
  int status = 0;
  cli::add_train(app, status);
  cli::add_test(app, status);
  cli::add_check(app, status);
  cli::add_attach(app, program);
  cli::add_list(app, status);
  cli::add_describe(app, status);
  cli::add_schema(app, status);
  cli::add_init(app, status);
  cli::add_inspect(app, status);
  cli::add_convert(app, status);
  cli::add_average(app, status);
  cli::add_plot(app, status);
  cli::add_report(app, status);
  cli::add_completion(app);
  cli::add_man(app);

  if (argc > 1 &&
      argv[1][0] != '-') {  // for a misspelt command, CLI11 only says that one is needed
    std::vector<std::string> names;
    for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
    if (std::find(names.begin(), names.end(), argv[1]) == names.end()) {
      const std::string near = nearest_name(argv[1], names);
      cli::print_error(fmt::format(
          "polyak: no command is named '{}'; {}the commands are {}\n", argv[1],
          near.empty() ? "" : fmt::format("did you mean '{}'? ", near), fmt::join(names, ", ")));
      return kWrongUse;
    }
  }
  try {
    app.parse(argc, argv);
    return cli::finish_output(status);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? cli::finish_output(0) : kWrongUse;
  } catch (const ConfigError& error) {
    cli::print_error(explained(error, "polyak: "));
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
