// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/key_maps.h"

#include <ATen/core/Tensor.h>
#include <dlfcn.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "polyak/config/load.h"
#include "polyak/config/options.h"
#include "polyak/core/log.h"
#include "polyak/runtime/tensor_names.h"

namespace polyak {
namespace fs = std::filesystem;

UnseenSizes::~UnseenSizes() = default;

namespace {

// Matching takes a stack frame for each character of a name, so a file could overflow the stack by
// a long one. No tensor of a real model has one.
constexpr size_t kLongestName = 1000;

// ---- reading

struct RuleOptions : Options {
  std::string from;
  std::string to;
  void visit(OptionVisitor& visitor) override {
    visitor.required("from", &from, "A regular expression for whole names of the library.");
    visitor.required("to", &to, "Polyak's name; \\1 to \\9 are the groups of `from`.");
  }
};

struct UnseenOptions : Options {
  std::string size;
  std::string of;
  Node values;
  void visit(OptionVisitor& visitor) override {
    visitor.required("size", &size, "The name of the size, such as num_heads.");
    visitor.required("of", &of, "The tensor, by Polyak's name, whose last dimension is the width.");
    visitor.required("values", &values, "The size, or a list of several, for each width.");
  }
};

struct KeyMapOptions : Options {
  std::string name;
  std::string description;
  std::string source;
  Node signature;
  Node rules;
  Node unseen;
  void visit(OptionVisitor& visitor) override {
    visitor.required("name", &name, "The name of the map, for the log.");
    visitor.required("description", &description, "Which networks it is for.");
    visitor.required("source", &source, "The library that names tensors in this way.");
    visitor.required("signature", &signature,
                     "Regular expressions, each of which matches a tensor's name in every file.");
    visitor.required("rules", &rules, "A list of `from` and `to`; the first that matches is used.");
    visitor.key("unseen", &unseen, "A list of sizes that tensors do not show; null: none.");
  }
};

KeyMap::Pattern read_pattern(const std::string& text, const Node& place) {
  try {
    return {text, std::regex(text)};
  } catch (const std::regex_error& error) {
    place.fail(fmt::format("'{}' is not a regular expression: {}", text, error.what()));
  }
}

const std::vector<Node>& at_least_one(const Node& list) {
  if (!list.is_sequence() || list.items().empty()) {
    list.fail("must be a list of at least one entry");
  }
  return list.items();
}

KeyMap::Rule read_rule(const Node& node) {
  RuleOptions options;
  read_options(node, options, "a rule of a key map");
  KeyMap::Rule rule{read_pattern(options.from, node.at("from")), options.to};
  for (size_t i = 0; i + 1 < rule.to.size(); ++i) {
    if (rule.to[i] != '\\') continue;
    const int group = rule.to[i + 1] - '0';
    if (group < 1 || group > static_cast<int>(std::min<size_t>(rule.from.regex.mark_count(), 9))) {
      node.at("to").fail(fmt::format("\\{} is not one of the {} groups of `from`", rule.to[i + 1],
                                     rule.from.regex.mark_count()));
    }
  }
  return rule;
}

KeyMap::Unseen read_unseen(const Node& node) {
  UnseenOptions options;
  read_options(node, options, "a size of a key map");
  KeyMap::Unseen unseen{options.size, options.of, {}};
  for (const auto& [key, value] : options.values.entries()) {
    int64_t width = 0;
    const auto end = key.data() + key.size();
    if (const auto [last, error] = std::from_chars(key.data(), end, width);
        error != std::errc() || last != end) {
      value.fail(fmt::format("'{}' is not a width; keys must be integers, values sizes", key));
    }
    std::vector<int64_t>& sizes = unseen.values[width];
    if (!value.is_sequence()) {
      sizes.push_back(value.as_int());
    } else {
      for (const Node& item : at_least_one(value)) sizes.push_back(item.as_int());
    }
  }
  return unseen;
}

// ---- finding

class MissingKeyMaps : public Error {
  using Error::Error;
};

std::vector<std::string> possible_folders() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&possible_folders), &info) == 0 || !info.dli_fname) return {};
  std::error_code error;
  const fs::path own = fs::canonical(info.dli_fname, error).parent_path();
  // POLYAK_KEY_MAPS is from CMake: where the maps are installed, from the library. The other is
  // that place in a build folder.
  std::vector<std::string> folders;
  for (const char* place : {POLYAK_KEY_MAPS, "../share/polyak/key_maps"}) {
    folders.push_back((own / place).lexically_normal().string());
  }
  folders.erase(std::unique(folders.begin(), folders.end()), folders.end());
  return folders;
}

// ---- renaming

/// The names of a state dict, or nullopt if there are other keys, which match_names() reports.
std::optional<std::vector<std::string>> names_in(const Value& state_dict) {
  std::vector<std::string> names;
  for (const auto& [key, value] : state_dict.entries()) {
    if (key.kind() != Value::Kind::string) return std::nullopt;
    names.push_back(key.as_string());
  }
  return names;
}

// Each prefix is tried with each map, so a file or a model must not have any number of them.
constexpr size_t kMostPrefixes = 16;

/// "" and the prefixes `a.`, `a.b.`, ... that all names share.
std::vector<std::string> shared_prefixes(const std::vector<std::string>& names) {
  std::vector<std::string> prefixes{""};
  const std::string all = common_prefix(names);
  for (size_t dot = all.find('.'); dot != std::string::npos && prefixes.size() < kMostPrefixes;
       dot = all.find('.', dot + 1)) {
    prefixes.push_back(all.substr(0, dot + 1));
  }
  return prefixes;
}

/// The shapes of a model's tensors, and how many of a state dict fit them. Single numbers are left
/// out: the counter of a BatchNorm fits that of any network.
class Shapes {
 public:
  explicit Shapes(const ModelRef& model) {
    for (const NamedTensor& item : model.tensors()) {
      if (item.tensor.dim() == 0) continue;
      shapes_.emplace(item.name, item.tensor.sizes().vec());
      const size_t dot = item.name.find('.');
      if (dot != std::string::npos) prefixes_.insert(item.name.substr(0, dot + 1));
    }
    if (prefixes_.size() > kMostPrefixes) prefixes_ = {""};
  }
  size_t count() const { return shapes_.size(); }
  /// "" and the first parts of the names; of many, only "".
  const std::set<std::string>& prefixes() const { return prefixes_; }
  /// How many tensors fit by these names and with `prefix` before them. The names are in the order
  /// of the state dict.
  size_t fitting(const Value& state_dict, const std::vector<std::string>& names,
                 const std::string& prefix) const {
    size_t count = 0, i = 0;
    for (const auto& [key, value] : state_dict.entries()) {
      const auto found = shapes_.find(prefix + names[i++]);
      count += found != shapes_.end() && value.is_tensor() &&
               value.as_tensor().sizes() == at::IntArrayRef(found->second);
    }
    return count;
  }

 private:
  std::unordered_map<std::string, std::vector<int64_t>> shapes_;
  std::set<std::string> prefixes_{""};
};

bool has_signature(const KeyMap& map, const std::vector<std::string>& names) {
  return std::all_of(map.signature.begin(), map.signature.end(), [&](const auto& pattern) {
    return std::any_of(names.begin(), names.end(),
                       [&](const auto& name) { return pattern.matches(name); });
  });
}

/// A way to rename a state dict.
struct Renaming {
  const KeyMap* map = nullptr;
  std::vector<std::string> names;  // in the order of the state dict
  std::string prefix;              // of the model, before these names
  size_t fitting = 0;
};

/// The one of these maps and prefixes after which the most tensors fit.
Renaming best_renaming(const Value& state_dict, const std::vector<std::string>& names,
                       const Shapes& shapes, const std::vector<KeyMap>& maps) {
  Renaming best;
  for (const std::string& removed : shared_prefixes(names)) {
    std::vector<std::string> bare;
    for (const std::string& name : names) bare.push_back(name.substr(removed.size()));
    for (const KeyMap& map : maps) {
      if (!has_signature(map, bare)) continue;
      std::vector<std::string> renamed;
      for (const std::string& name : bare) renamed.push_back(map.renamed(name));
      // Two tensors of one name: not a file of this family.
      if (std::set<std::string>(renamed.begin(), renamed.end()).size() < renamed.size()) continue;
      for (const std::string& prefix : shapes.prefixes()) {
        const size_t fitting = shapes.fitting(state_dict, renamed, prefix);
        if (fitting > best.fitting) best = {&map, renamed, prefix, fitting};
      }
    }
  }
  return best;
}

/// What the model's modules say of a size.
std::vector<int64_t> sizes_in(const ModelRef& model, const std::string& size) {
  std::vector<int64_t> found;
  if (!model.nn_module()) return found;
  const auto add = [&](const torch::nn::Module& module) {
    const auto* unseen = dynamic_cast<const UnseenSizes*>(&module);
    if (!unseen) return;
    for (const auto& [name, value] : unseen->unseen_sizes()) {
      if (name == size) found.push_back(value);
    }
  };
  add(*model.nn_module());
  for (const auto& module : model.nn_module()->modules(/*include_self=*/false)) add(*module);
  return found;
}

void check_unseen(const KeyMap& map, const KeyMap::Unseen& unseen, const at::Tensor& tensor,
                  const ModelRef& model) {
  const int64_t width = tensor.dim() > 0 ? tensor.size(-1) : 0;
  const std::vector<int64_t> has = sizes_in(model, unseen.size);
  const auto known = unseen.values.find(width);
  const std::string say =
      fmt::format("key map {}: the file does not contain {}", map.name, unseen.size);
  if (known == unseen.values.end()) {
    log_info(
        "{}, and no network of {} that the map knows has the width {}; it must be the same in "
        "this model{}",
        say, map.source, width,
        has.empty() ? "" : fmt::format(", which has {}", fmt::join(has, " and ")));
    return;
  }
  const std::vector<int64_t>& values = known->second;
  const std::string theirs = fmt::format("{}'s networks of width {} have {}", map.source, width,
                                         fmt::join(values, " or "));
  if (has.empty()) {
    log_info("{}; {}, and this model must have the same", say, theirs);
    return;
  }
  const bool all_known = std::all_of(has.begin(), has.end(), [&](int64_t value) {
    return std::count(values.begin(), values.end(), value) > 0;
  });
  if (!all_known) {
    log_warning(
        "{}; {}, but this model has {}, with which the same weights mean something else; set {} "
        "to {}, unless the weights were trained with {}",
        say, theirs, fmt::join(has, " and "), unseen.size, fmt::join(values, " or "),
        fmt::join(has, " and "));
  } else if (values.size() > 1) {
    log_info("{}; {}; this model has {}: make sure that the weights were trained with it", say,
             theirs, fmt::join(has, " and "));
  }
}

}  // namespace

bool KeyMap::Pattern::matches(const std::string& name) const {
  return name.size() <= kLongestName && std::regex_match(name, regex);
}

std::string KeyMap::renamed(const std::string& name) const {
  if (name.size() > kLongestName) return name;
  for (const Rule& rule : rules) {
    std::smatch match;
    if (!std::regex_match(name, match, rule.from.regex)) continue;
    std::string result;
    for (size_t i = 0; i < rule.to.size(); ++i) {
      if (rule.to[i] == '\\' && i + 1 < rule.to.size()) {
        result += match.str(static_cast<size_t>(rule.to[++i] - '0'));
      } else {
        result += rule.to[i];
      }
    }
    return result;
  }
  return name;
}

KeyMap read_key_map(const std::string& file) {
  const Node node = load_config(file);
  KeyMapOptions options;
  read_options(node, options, "a key map");
  KeyMap map;
  map.name = options.name;
  map.description = options.description;
  map.source = options.source;
  for (const Node& text : at_least_one(options.signature)) {
    map.signature.push_back(read_pattern(text.as_string(), text));
  }
  for (const Node& rule : at_least_one(options.rules)) map.rules.push_back(read_rule(rule));
  if (!options.unseen.is_null()) {
    for (const Node& unseen : at_least_one(options.unseen)) {
      map.unseen.push_back(read_unseen(unseen));
    }
  }
  return map;
}

std::string key_maps_folder() {
  const std::vector<std::string> folders = possible_folders();
  for (const std::string& folder : folders) {
    std::error_code error;
    if (fs::is_directory(folder, error)) return folder;
  }
  fail<MissingKeyMaps>(
      "the key maps that come with Polyak are missing; searched {}; install Polyak again",
      fmt::join(folders, ", "));
}

std::vector<KeyMap> shipped_key_maps() {
  const std::string folder = key_maps_folder();
  std::vector<std::string> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path().string());
  }
  if (error) fail<Error>("{}: cannot be read: {}", folder, error.message());
  std::sort(files.begin(), files.end());
  std::vector<KeyMap> maps;
  for (const std::string& file : files) maps.push_back(read_key_map(file));
  return maps;
}

namespace {

std::optional<std::string> apply_best(Value& state_dict, const ModelRef& model,
                                      const Shapes& shapes, const std::vector<std::string>& names,
                                      const std::vector<KeyMap>& maps) {
  const size_t before = shapes.fitting(state_dict, names, "");
  Renaming best = best_renaming(state_dict, names, shapes, maps);
  if (best.fitting <= before) return std::nullopt;
  size_t i = 0;
  for (auto& [key, value] : state_dict.entries()) key = Value(best.prefix + best.names[i++]);
  log_info(
      "the checkpoint's tensors are named as in {}; they are renamed by the key map {}: {} of the "
      "model's {} tensors fit now, {} did before (single numbers are not counted)",
      best.map->source, best.map->name, best.fitting, shapes.count(), before);
  for (const KeyMap::Unseen& unseen : best.map->unseen) {
    const Value* value = state_dict.find(best.prefix + unseen.of);
    if (value && value->is_tensor()) check_unseen(*best.map, unseen, value->as_tensor(), model);
  }
  return best.map->name;
}

}  // namespace

std::optional<std::string> apply_key_map(Value& state_dict, const ModelRef& model,
                                         const std::vector<KeyMap>& maps) {
  const auto names = names_in(state_dict);
  if (!names) return std::nullopt;
  return apply_best(state_dict, model, Shapes(model), *names, maps);
}

std::optional<std::string> apply_key_map(Value& state_dict, const ModelRef& model) {
  const auto names = names_in(state_dict);
  if (!names) return std::nullopt;
  const Shapes shapes(model);
  if (shapes.fitting(state_dict, *names, "") == shapes.count()) return std::nullopt;
  std::vector<KeyMap> maps;
  try {
    maps = shipped_key_maps();
  } catch (const MissingKeyMaps& error) {
    log_warning("{}; tensors named as in another library are not renamed", error.what());
  }
  return apply_best(state_dict, model, shapes, *names, maps);
}

}  // namespace polyak
