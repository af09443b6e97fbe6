// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cctype>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "polyak/checkpoint/file.h"
#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/streams.h"
#include "polyak/config/nearest.h"
#include "polyak/core/error.h"
#include "polyak/version.h"

// Manual pages, in the macros of man(7).
namespace polyak::cli {
namespace {

constexpr const char* kStatuses =
    ".SH EXIT STATUS\n"
    ".TP\n.B 0\nIt is done.\n"
    ".TP\n.B 1\nSomething failed while it ran.\n"
    ".TP\n.B 2\nThe command line, the config or a plugin is wrong; nothing was started.\n"
    ".TP\n.BI 128+ N\nIt was ended by signal N.\n";

/// Text in which no character is taken for a request.
std::string roff_text(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else if (c == '\'') {
      result += "\\(aq";
    } else {
      result += c;
    }
  }
  return !result.empty() && result.front() == '.' ? "\\&" + result : result;
}

std::string sentence(const std::string& text) {
  return roff_text(text) + (!text.empty() && text.back() == '.' ? "" : ".");
}

std::string value_of(const ArgumentText& argument) {
  if (argument.value.empty()) return "";
  const std::string value =
      fmt::format("\\fI{}\\fR{}", roff_text(argument.value), argument.repeated ? " ..." : "");
  return argument.optional_value ? "[" + value + "]" : value;
}

std::string positional_text(const ArgumentText& argument) {
  const std::string text = fmt::format("\\fI{}\\fR{}", roff_text(argument.names.front()),
                                       argument.repeated ? " ..." : "");
  return argument.required ? text : "[" + text + "]";
}

void add_section(const char* title, const std::vector<ArgumentText>& arguments, std::string& page) {
  if (arguments.empty()) return;
  page += fmt::format(".SH {}\n", title);
  for (const ArgumentText& argument : arguments) {
    std::string names;
    for (const std::string& name : argument.names) {
      names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", roff_text(name));
    }
    const bool is_option = argument.names.front().front() == '-';
    page += fmt::format(".TP\n{} {}\n{}\n", names, is_option ? value_of(argument) : "",
                        sentence(argument.text));
  }
}

std::string page_of(const CommandText& command) {
  std::string title = command.name;
  std::transform(title.begin(), title.end(), title.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  std::string page = fmt::format(
      ".TH POLYAK\\-{} 1 \"\" \"polyak {}\" \"Polyak\"\n.SH NAME\npolyak\\-{} \\- {}\n"
      ".SH SYNOPSIS\n.B polyak {}\n[\\fIoptions\\fR]",
      title, POLYAK_VERSION, command.name, roff_text(command.text), command.name);
  for (const ArgumentText& argument : command.positionals) {
    page += " " + positional_text(argument);
  }
  page += "\n";
  add_section("ARGUMENTS", command.positionals, page);
  add_section("OPTIONS", command.options, page);
  return page + kStatuses + ".SH SEE ALSO\n.BR polyak (1)\n";
}

std::string main_page(const CLI::App& app, const std::vector<CommandText>& commands) {
  std::string page = fmt::format(
      ".TH POLYAK 1 \"\" \"polyak {}\" \"Polyak\"\n.SH NAME\npolyak \\- {}\n"
      ".SH SYNOPSIS\n.B polyak\n\\fIcommand\\fR [\\fIoptions\\fR] ...\n.SH COMMANDS\n",
      POLYAK_VERSION, "weight averaging for C++ training");
  for (const CommandText& command : commands) {
    page += fmt::format(".TP\n.BR polyak\\-{} (1)\n{}\n", command.name, sentence(command.text));
  }
  add_section("OPTIONS", common_options(app), page);
  return page + kStatuses;
}

struct ManArguments {
  std::string command;
  std::string folder;
};

std::string page_named(const std::string& name, const CLI::App& app,
                       const std::vector<CommandText>& commands) {
  if (name.empty()) return main_page(app, commands);
  std::vector<std::string> names;
  for (const CommandText& command : commands) {
    if (command.name == name) return page_of(command);
    names.push_back(command.name);
  }
  const std::string near = nearest_name(name, names);
  fail<ConfigError>("man: no command is named '{}'{}", name,
                    near.empty() ? "" : fmt::format("; did you mean '{}'?", near));
}

void man(const CLI::App& app, const ManArguments& arguments) {
  const std::vector<CommandText> commands = commands_of(app);
  if (arguments.folder.empty()) {
    write_output(page_named(arguments.command, app, commands));
    return;
  }
  replace_text_file(arguments.folder + "/polyak.1", main_page(app, commands));
  for (const CommandText& command : commands) {
    replace_text_file(fmt::format("{}/polyak-{}.1", arguments.folder, command.name),
                      page_of(command));
  }
}

}  // namespace

void add_man(CLI::App& app) {
  CLI::App* command = app.add_subcommand("man", "Print a manual page: polyak man train | man -l -");
  auto arguments = std::make_shared<ManArguments>();
  CLI::Option* const name = command->add_option(
      "command", arguments->command, "The command that it is about; default: all of them");
  command
      ->add_option("--folder", arguments->folder,
                   "Write the pages of all commands into this folder, for packages")
      ->type_name(kFolder)
      ->check(CLI::ExistingDirectory)
      ->excludes(name);
  command->callback([&app, arguments] { man(app, *arguments); });
}

}  // namespace polyak::cli
