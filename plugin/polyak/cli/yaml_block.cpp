// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/yaml_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <vector>

#include "polyak/averaging/averaged_model.h"

namespace polyak::cli {
namespace {

constexpr size_t kWidth = 100;

// A sentence as comments of at most kWidth characters a line.
std::string comment(const std::string& sentence) {
  std::string text, line = "#";
  std::istringstream words(sentence);
  for (std::string word; words >> word;) {
    if (line.size() + 1 + word.size() > kWidth) {
      text += line + "\n";
      line = "#";
    }
    line += " " + word;
  }
  return text + line + "\n";
}

class RestFinder : public OptionReader {
 public:
  std::optional<Rest> found;

  void key(const Key&, ConstOptionValue) override {}
  void rest(const Rest& rest, const Node&) override { found = rest; }
};

std::string keys_of(const Catalog& catalog, const Options& options,
                    const std::vector<const char*>& refused = {}) {
  std::string text;
  for (const KeyDescription& key : describe_options(options)) {
    const bool left_out = std::any_of(refused.begin(), refused.end(),
                                      [&](const char* name) { return key.name == name; });
    if (left_out) continue;
    if (key.rest) {
      text += "\n" + comment(key.doc);
      continue;
    }
    text += comment(fmt::format("{}{}{}", key.required ? "Required. " : "", key.doc,
                                key.range.empty() ? "" : fmt::format(" Must be {}.", key.range)));
    text += fmt::format("{}:{}{}\n", key.name, key.required ? "" : " ", key.default_value);
  }
  RestFinder rest;
  options.inspect(rest);
  const RegistryBase* const others =
      rest.found && rest.found->kind ? catalog.find(rest.found->kind) : nullptr;
  return others
             ? text + keys_of(catalog, *others->options_of(rest.found->type), rest.found->refused)
             : text;
}

}  // namespace

std::string yaml_block(const Catalog& catalog, const RegistryBase& registry,
                       const std::string& name) {
  const bool is_average = registry.kind() == AveragedModel::kKind;
  std::string text = comment(fmt::format("{}: {}", registry.kind(), registry.describe(name).doc)) +
                     fmt::format("{}: {}\n", is_average ? "type: EMAHook\nema_type" : "type", name);
  if (const auto common = registry.common_keys()) text += keys_of(catalog, *common);
  return text + keys_of(catalog, *registry.options_of(name));
}

}  // namespace polyak::cli
