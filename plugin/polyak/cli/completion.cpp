// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "polyak/cli/command_text.h"
#include "polyak/cli/commands.h"
#include "polyak/cli/registered.h"
#include "polyak/cli/streams.h"
#include "polyak/registry/registry.h"

// Scripts that complete the command in a shell, from what the command says of itself.
namespace polyak::cli {
namespace {

/// How a value is completed.
struct Values {
  bool files = false;
  bool folders = false;
  std::vector<std::string> words;
};

Values values_of(const ArgumentText& argument) {
  Values values;
  values.files = argument.value == kFile;
  values.folders = argument.value == kFolder;
  values.words = argument.words;
  std::set<std::string> names;
  for (const RegistryBase* registry : registered().all()) {
    if (argument.value == kKind) names.insert(registry->kind());
    if (argument.value != kName && (argument.value != kAverage || registry->kind() != "average")) {
      continue;
    }
    for (const std::string& name : registry->names()) names.insert(name);
  }
  values.words.insert(values.words.end(), names.begin(), names.end());
  return values;
}

/// How anything that is no option is completed.
Values values_of(const std::vector<ArgumentText>& positionals) {
  Values all;
  for (const ArgumentText& argument : positionals) {
    const Values values = values_of(argument);
    all.files = all.files || values.files;
    all.folders = all.folders || values.folders;
    all.words.insert(all.words.end(), values.words.begin(), values.words.end());
  }
  return all;
}

std::string replaced(std::string text, char what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size()) {
    text.replace(at, 1, by);
  }
  return text;
}

// ---- bash

/// Sets what is offered: words, or files.
std::string bash_values(const Values& values) {
  if (values.files) return "kind=file";
  if (values.folders) return "kind=folder";
  std::vector<std::string> words;
  for (const std::string& word : values.words) words.push_back(replaced(word, ' ', "\\ "));
  return fmt::format("words='{}'", fmt::join(words, " "));
}

std::string bash_script(const std::vector<CommandText>& commands,
                        const std::vector<ArgumentText>& common) {
  std::vector<std::string> names, after, cases;
  for (const CommandText& command : commands) {
    names.push_back(command.name);
    std::vector<std::string> options;
    for (const ArgumentText& option : command.options) {
      options.insert(options.end(), option.names.begin(), option.names.end());
      if (option.value.empty()) continue;
      std::vector<std::string> places;
      for (const std::string& name : option.names) {
        places.push_back(fmt::format("{}:{}", command.name, name));
      }
      after.push_back(
          fmt::format("    {}) {} ;;\n", fmt::join(places, "|"), bash_values(values_of(option))));
    }
    cases.push_back(fmt::format(
        "        {}) options='{}' {} ;;\n", command.name, fmt::join(options, " "),
        command.positionals.empty() ? "" : bash_values(values_of(command.positionals))));
  }
  std::vector<std::string> options;
  for (const ArgumentText& option : common) {
    options.insert(options.end(), option.names.begin(), option.names.end());
  }
  return fmt::format(
      R"sh(# Completion of polyak for bash: polyak completion bash.
_polyak() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= kind= words= options= i
  # Bash takes --option=value for three words.
  [[ $word != = ]] || word=
  [[ $before != = ]] || before=${{COMP_WORDS[COMP_CWORD-2]}}
  for ((i = 1; i < COMP_CWORD; ++i)); do
    case ${{COMP_WORDS[i]}} in
      --) kind=file ;;
      -*) ;;
      *) command=${{command:-${{COMP_WORDS[i]}}}} ;;
    esac
  done
  if [[ -z $kind ]]; then
    case $command:$before in
{}    *)
      case $command in
        '') words='{}' options='{}' ;;
{}      esac ;;
    esac
  fi
  [[ $word != -* ]] || {{ words=$options kind=; }}
  COMPREPLY=()
  case $kind in
    file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    folder) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word") ;;
  esac
}}
complete -F _polyak polyak
)sh",
      fmt::join(after, ""), fmt::join(names, " "), fmt::join(options, " "), fmt::join(cases, ""));
}

// ---- zsh

/// Within the brackets of an argument's description and within single quotes.
std::string zsh_text(const std::string& text) {
  std::string result = replaced(text, '\\', "\\\\");
  for (const char c : {'[', ']', ':'}) result = replaced(result, c, std::string("\\") + c);
  return replaced(result, '\'', "'\\''");
}

std::string zsh_values(const ArgumentText& argument) {
  const Values values = values_of(argument);
  std::string action = " ";  // nothing to offer
  if (values.files) action = "_files";
  if (values.folders) action = "_files -/";
  if (!values.words.empty()) {
    std::vector<std::string> words;
    for (const std::string& word : values.words) words.push_back(replaced(word, ' ', "\\ "));
    action = fmt::format("({})", fmt::join(words, " "));
  }
  return fmt::format(":{}:{}", zsh_text(argument.value), action);
}

std::string zsh_argument(const ArgumentText& argument) {
  const std::string values =
      argument.value.empty() ? "" : (argument.optional_value ? ":" : "") + zsh_values(argument);
  if (argument.names.front().front() != '-') {
    return fmt::format(" \\\n        '{}{}'", argument.repeated ? "*" : "", values);
  }
  std::string text;
  for (const std::string& name : argument.names) {
    text += fmt::format(" \\\n        '{}{}[{}]{}'", argument.repeated ? "*" : "", name,
                        zsh_text(argument.text), values);
  }
  return text;
}

std::string zsh_script(const std::vector<CommandText>& commands,
                       const std::vector<ArgumentText>& common) {
  std::string names, cases, options;
  for (const CommandText& command : commands) {
    names += fmt::format("    '{}:{}'\n", command.name, zsh_text(command.text));
    cases += fmt::format("    {})\n      _arguments -s", command.name);
    for (const ArgumentText& option : command.options) cases += zsh_argument(option);
    for (const ArgumentText& positional : command.positionals) cases += zsh_argument(positional);
    if (command.name == "attach") cases += " \\\n        '*:program:_files'";
    cases += " ;;\n";
  }
  for (const ArgumentText& option : common) options += zsh_argument(option);
  return fmt::format(R"sh(#compdef polyak
# Completion of polyak for zsh: polyak completion zsh.
_polyak() {{
  local -a commands=(
{}  )
  if (( CURRENT == 2 )); then
    [[ $PREFIX == -* ]] || {{ _describe command commands; return; }}
    _arguments -s{}
    return
  fi
  shift words
  (( CURRENT-- ))
  case ${{words[1]}} in
{}  esac
}}
if [[ $funcstack[1] == _polyak ]]; then _polyak "$@"; else compdef _polyak polyak; fi
)sh",
                     names, options, cases);
}

// ---- fish

std::string fish_text(const std::string& text) {
  return replaced(replaced(text, '\\', "\\\\"), '\'', "\\'");
}

std::string fish_values(const Values& values) {
  if (values.files) return " -F";
  if (values.folders) return " -f -a '(__fish_complete_directories)'";
  if (values.words.empty()) return " -f";
  std::vector<std::string> words;
  for (const std::string& word : values.words) {
    words.push_back(replaced(fish_text(word), ' ', "\\\\ "));
  }
  return fmt::format(" -f -a '{}'", fmt::join(words, " "));
}

std::string fish_option(const ArgumentText& option) {
  std::string text;
  for (const std::string& name : option.names) {
    text += name.rfind("--", 0) == 0 ? " -l " + name.substr(2) : " -s " + name.substr(1);
  }
  if (!option.value.empty()) {
    text += (option.optional_value ? "" : " -r") + fish_values(values_of(option));
  }
  return fmt::format("{} -d '{}'\n", text, fish_text(option.text));
}

std::string fish_script(const std::vector<CommandText>& commands,
                        const std::vector<ArgumentText>& common) {
  std::string script =
      "# Completion of polyak for fish: polyak completion fish.\n"
      "complete -c polyak -f\n";
  for (const ArgumentText& option : common) {
    script += "complete -c polyak -n __fish_use_subcommand" + fish_option(option);
  }
  for (const CommandText& command : commands) {
    script += fmt::format("complete -c polyak -n __fish_use_subcommand -a {} -d '{}'\n",
                          command.name, fish_text(command.text));
    const std::string within =
        fmt::format("complete -c polyak -n '__fish_seen_subcommand_from {}'", command.name);
    for (const ArgumentText& option : command.options) script += within + fish_option(option);
    if (command.positionals.empty()) continue;
    script += within + fish_values(values_of(command.positionals)) + "\n";
  }
  return script;
}

}  // namespace

void add_completion(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "completion", "Print a script that completes this command in a shell; packages install it");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, shell] {
    const std::vector<CommandText> commands = commands_of(app);
    const std::vector<ArgumentText> common = common_options(app);
    write_output(*shell == "bash"  ? bash_script(commands, common)
                 : *shell == "zsh" ? zsh_script(commands, common)
                                   : fish_script(commands, common));
  });
}

}  // namespace polyak::cli
