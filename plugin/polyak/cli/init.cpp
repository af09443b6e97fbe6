// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/init_texts.h"
#include "polyak/cli/streams.h"
#include "polyak/config/nearest.h"
#include "polyak/core/error.h"

namespace polyak::cli {
namespace {

struct InitArguments {
  std::string from = "fashion-mnist";
  std::string output;  // empty: standard output
};

int init(const InitArguments& arguments) {
  std::vector<std::string> names;
  for (const auto& [name, text] : init_texts()) names.push_back(name);
  const auto found = init_texts().find(arguments.from);
  if (found == init_texts().end()) {
    const std::string near = nearest_name(arguments.from, names);
    fail<ConfigError>("--from: there is no '{}'; {}the names are: {}", arguments.from,
                      near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                      fmt::join(names, ", "));
  }
  if (arguments.output.empty()) {
    write_output(found->second);
    return 0;
  }
  std::FILE* const file = std::fopen(arguments.output.c_str(), "wx");  // not over another file
  if (!file) {
    fail<ConfigError>("{}: cannot be written: {}", arguments.output,
                      errno == EEXIST ? "it exists; choose another name" : std::strerror(errno));
  }
  const bool written = std::fputs(found->second.c_str(), file) >= 0;
  if (std::fclose(file) != 0 || !written) {
    fail<Error>("{}: cannot be written: {}", arguments.output, std::strerror(errno));
  }
  return 0;
}

}  // namespace

void add_init(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("init", "Print a commented config to start from");
  auto arguments = std::make_shared<InitArguments>();
  std::vector<std::string> names;
  for (const auto& [name, text] : init_texts()) names.push_back(name);
  command
      ->add_option("--from", arguments->from,
                   fmt::format("{}; default: {}", fmt::join(names, ", "), arguments->from))
      ->type_name(fmt::format("WORD:{{{}}}", fmt::join(names, ",")));
  command->add_option("-o,--output", arguments->output, "Write it to this file, which must be new")
      ->type_name(kFile);
  command->callback([arguments, &status] { status = init(*arguments); });
}

}  // namespace polyak::cli
