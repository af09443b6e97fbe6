// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/command_text.h"

#include <CLI/CLI.hpp>

namespace polyak::cli {
namespace {

/// "TEXT:{pth,safetensors}" is the name of the type and the valid words; "INT:POSITIVE" the name of
/// the type and a condition.
void read_type(const std::string& type, ArgumentText& argument) {
  const size_t colon = type.find(':');
  argument.value = type.substr(0, colon);
  const size_t open = type.find('{'), close = type.find('}');
  if (open == std::string::npos || close == std::string::npos) return;
  argument.value = "WORD";
  for (size_t begin = open + 1; begin <= close;) {
    const size_t end = std::min(type.find(',', begin), close);
    argument.words.push_back(type.substr(begin, end - begin));
    begin = end + 1;
  }
}

ArgumentText argument_of(const CLI::Option& option) {
  ArgumentText argument;
  argument.text = option.get_description();
  argument.required = option.get_required();
  if (option.get_positional()) {
    argument.names = {option.get_name(/*positional=*/true)};
  } else {
    for (const std::string& name : option.get_lnames()) argument.names.push_back("--" + name);
    for (const std::string& name : option.get_snames()) argument.names.push_back("-" + name);
  }
  if (option.get_items_expected_max() > 0) {
    read_type(option.get_type_name(), argument);
    argument.optional_value = option.get_items_expected_min() == 0;
    argument.repeated = option.get_items_expected_max() > 1;
  }
  return argument;
}

void add_arguments(const CLI::App& app, std::vector<ArgumentText>* positionals,
                   std::vector<ArgumentText>& options) {
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) {
      options.push_back(argument_of(*option));
    } else if (positionals) {
      positionals->push_back(argument_of(*option));
    }
  }
}

}  // namespace

std::vector<CommandText> commands_of(const CLI::App& app) {
  std::vector<CommandText> commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    CommandText text;
    text.name = command->get_name();
    text.text = command->get_description();
    add_arguments(*command, &text.positionals, text.options);
    for (const CLI::App* what : command->get_subcommands([](const CLI::App*) { return true; })) {
      ArgumentText word;  // `plot average`: what the command is about
      word.names = {what->get_name()};
      word.text = what->get_description();
      word.value = "WORD";
      word.words = word.names;
      word.required = true;
      text.positionals.push_back(std::move(word));
      add_arguments(*what, &text.positionals, text.options);
    }
    commands.push_back(std::move(text));
  }
  return commands;
}

std::vector<ArgumentText> common_options(const CLI::App& app) {
  std::vector<ArgumentText> options;
  add_arguments(app, nullptr, options);
  return options;
}

}  // namespace polyak::cli
