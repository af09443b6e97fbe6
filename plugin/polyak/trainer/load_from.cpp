// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/load_from.h"

namespace polyak {
namespace {

struct PrefixOptions : Options {
  std::vector<std::string> strip;
  Node map;

  void visit(OptionVisitor& visitor) override {
    visitor.key("strip", &strip,
                "Prefixes of names; the first that a name begins with is removed.");
    visitor.any("map", &map, "mapping of strings or null",
                "Beginnings of names, and what replaces each.");
  }
};

}  // namespace

void LoadFromOptions::visit(OptionVisitor& visitor) {
  visitor.required("path", &path, "The file.");
  visitor.key("key", &key, "Where the weights are in the file, such as model; empty: found.");
  visitor.block<PrefixOptions>(
      "prefix", &prefix,
      "How names begin in the file and in the model: {strip: 'module.', map: {'encoder.': "
      "'backbone.'}}.");
  visitor.key("exclude", &exclude,
              "Names of tensors to leave out, the file's or the model's; * stands for any text.");
}

void LoadFromOptions::validate() const {
  if (path.empty()) fail_option("path", "must not be empty");
  rules();
}

NameRules LoadFromOptions::rules() const {
  NameRules rules;
  rules.exclude = exclude;
  PrefixOptions options;
  read_options(prefix, options, "prefix");
  rules.strip = options.strip;
  if (options.map.is_null()) return rules;
  for (const auto& [from, to] : options.map.entries()) rules.map.emplace_back(from, to.as_string());
  return rules;
}

LoadFromOptions read_load_from(const Node& node) {
  LoadFromOptions options;
  if (node.is_null()) return options;
  if (node.is_mapping()) {
    read_options(node, options, "load_from");
  } else {
    options.path = node.as_string();
  }
  return options;
}

}  // namespace polyak
