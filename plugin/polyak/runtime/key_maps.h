// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"
#include "polyak/runtime/unseen_sizes.h"

namespace polyak {

/// How a library names the tensors of a family of networks, and how Polyak names the same tensors.
/// A YAML file holds one (docs/weights.md has the format).
struct POLYAK_API KeyMap {
  /// Patterns match whole names.
  struct Pattern {
    std::string text;
    std::regex regex;
    bool matches(const std::string& name) const;
  };
  struct Rule {
    Pattern from;
    std::string to;  // `\1` to `\9` are the groups of `from`
  };
  /// A size that the tensors do not show.
  struct Unseen {
    std::string size;  // its name in UnseenSizes
    std::string of;    // the tensor, by Polyak's name, whose last dimension is the width
    std::map<int64_t, std::vector<int64_t>> values;  // by width, those of the family
  };

  std::string name;
  std::string description;
  std::string source;              // the library
  std::vector<Pattern> signature;  // each matches some tensor of a file of this family
  std::vector<Rule> rules;         // the first whose pattern matches renames a tensor
  std::vector<Unseen> unseen;

  /// Polyak's name for a tensor of the library; the same name if no rule matches.
  std::string renamed(const std::string& name) const;
};

/// Reads a key map.
/// @throws ConfigError with file:line:col
POLYAK_API KeyMap read_key_map(const std::string& file);

/// The folder of the key maps that come with Polyak, found from the place of this library:
/// `share/polyak/key_maps`, installed and in a build folder.
/// @throws Error naming the folders where it was searched
POLYAK_API std::string key_maps_folder();

/// The key maps of that folder, in the order of their files' names.
/// @throws Error, and ConfigError for a file that is not a key map
POLYAK_API std::vector<KeyMap> shipped_key_maps();

/// Renames the tensors of a state dict by the shipped key map whose signature fits its names and
/// after which the most tensors have a name and a shape of the model. A prefix that all names share
/// (`module.`) is removed for that, and one that the model has before (`student.`) is added. Logs
/// which map was used, and compares what the map says of sizes that tensors do not show with the
/// model's (UnseenSizes).
/// @return the map's name; nullopt, with nothing changed, if all of the model's tensors are there
///   already, if no map makes more tensors fit, or, with a warning, if the folder is missing
/// @throws ConfigError for a file that is not a key map
POLYAK_API std::optional<std::string> apply_key_map(Value& state_dict, const ModelRef& model);

/// The same with these maps instead of the shipped ones.
POLYAK_API std::optional<std::string> apply_key_map(Value& state_dict, const ModelRef& model,
                                                    const std::vector<KeyMap>& maps);

}  // namespace polyak
