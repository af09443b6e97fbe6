// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace polyak::cli {

// What the command line says of itself, for manual pages and shells' completion.

/// An option or an argument without a name of its own on the line.
struct ArgumentText {
  std::vector<std::string> names;  // "--out", "-o"; of a positional one its name alone
  std::string value;               // "FILE", "N"; "" for an option without a value
  std::vector<std::string> words;  // the values, where only some are valid
  std::string text;                // a sentence
  bool required = false;
  bool optional_value = false;  // an option that may stand without its value
  bool repeated = false;        // takes several values
};

/// A command.
struct CommandText {
  std::string name;
  std::string text;  // a sentence
  std::vector<ArgumentText> positionals;
  std::vector<ArgumentText> options;
};

// The values that are files, folders or registered names have these type names in the command line.
constexpr const char* kFile = "FILE";
constexpr const char* kFolder = "FOLDER";
constexpr const char* kName = "NAME";        // of anything that is registered
constexpr const char* kKind = "KIND";        // of registered things
constexpr const char* kAverage = "AVERAGE";  // a registered average

/// All commands, in the order of the help.
std::vector<CommandText> commands_of(const CLI::App& app);
/// The options of the line itself, before any command.
std::vector<ArgumentText> common_options(const CLI::App& app);

}  // namespace polyak::cli
