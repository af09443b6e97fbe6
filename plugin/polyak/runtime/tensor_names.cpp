// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/tensor_names.h"

#include <ATen/core/Tensor.h>
#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "polyak/core/log.h"
#include "polyak/core/text.h"

namespace polyak {
namespace {

constexpr const char* kModulePrefix = "module.";

// Parts that wrappers add; no module of a user is named so.
constexpr std::string_view kWrappers[] = {"_orig_mod.", "_fsdp_wrapped_module.",
                                          "_checkpoint_wrapped_module.", "_forward_module."};

// What averages of other libraries count in their state dicts, beside the tensors.
constexpr std::string_view kCounters[] = {"n_averaged", "steps", "num_updates", "step", "initted"};

// No prefix has more parts, and no name is longer: a hostile file could make others take long.
constexpr int kMostParts = 16;
constexpr size_t kLongestName = 1000;

bool begins_with(const std::string& text, std::string_view prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

std::vector<std::string> keys_of(const Value& state_dict) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : state_dict.entries()) {
    if (key.kind() != Value::Kind::string) {
      fail<CheckpointError>("state_dict has the key {}, expected names of tensors", key.as_int());
    }
    keys.push_back(key.as_string());
  }
  return keys;
}

/// Renames each tensor, or leaves it out where `rename` returns nothing.
template <class Rename>
void rename_keys(Value& dict, const Rename& rename) {
  std::unordered_map<std::string, std::string> old_names;
  std::vector<Value::Entry> renamed;
  renamed.reserve(dict.entries().size());
  for (auto& [key, value] : dict.entries()) {
    if (key.kind() != Value::Kind::string) {
      renamed.emplace_back(std::move(key), std::move(value));
      continue;
    }
    std::optional<std::string> name = rename(key.as_string());
    if (!name) continue;
    const auto [known, is_new] = old_names.emplace(*name, key.as_string());
    if (!is_new) {
      fail<CheckpointError>(
          "state_dict holds both '{}' and '{}', and either could be the model's '{}'; keep only "
          "the right one",
          known->second, key.as_string(), *name);
    }
    renamed.emplace_back(Value(std::move(*name)), std::move(value));
  }
  dict = Value::dict(std::move(renamed), dict.ordered());
}

/// Rejects a state dict that names the model's tensors in two ways.
void check_one_way(const std::vector<std::string>& keys,
                   const std::unordered_set<std::string>& names) {
  const std::string prefix = kModulePrefix;
  std::map<std::string, std::string> key_of;
  std::vector<std::string> bare, prefixed;
  for (const std::string& key : keys) {
    std::string name = key;
    for (int parts = 0; parts < kMostParts && begins_with(name, prefix) && !names.count(name);
         ++parts) {
      name = name.substr(prefix.size());
    }
    if (!names.count(name)) continue;
    const auto [known, is_new] = key_of.emplace(name, key);
    if (!is_new) {
      fail<CheckpointError>(
          "state_dict holds both '{}' and '{}', and either could be the model's '{}'; keep only "
          "the right one",
          known->second, key, name);
    }
    (name == key ? bare : prefixed).push_back(key);
  }
  if (bare.empty() || prefixed.empty()) return;
  fail<CheckpointError>(
      "state_dict names some of the model's tensors with '{}' and others without: {}; and {}",
      prefix, list_names(prefixed), list_names(bare));
}

/// A change of names: `from` at their beginning becomes `to`.
struct Exchange {
  std::string from;
  std::string to;
  size_t fitting = 0;

  /// Among those that fit equally many names, simple ones come first.
  bool simpler_than(const Exchange& other) const {
    const auto rank = [](const Exchange& exchange) {
      return std::make_tuple(exchange.to.empty()          ? 0
                             : exchange.to == "backbone." ? 1
                                                          : 2,
                             exchange.from.empty() ? 0 : 1);
    };
    return rank(*this) < rank(other);
  }
  std::string text() const {
    if (to.empty()) return fmt::format("without '{}'", from);
    return from.empty() ? fmt::format("with '{}'", to)
                        : fmt::format("with '{}' instead of '{}'", to, from);
  }
};

/// Calls `use(prefix, rest)` for each way to divide a name at a dot, the whole name as rest first.
template <class Use>
void divide(const std::string& name, const Use& use) {
  if (name.size() > kLongestName) return;
  size_t at = 0;
  for (int parts = 0; parts <= kMostParts; ++parts) {
    use(name.substr(0, at), name.substr(at));
    const size_t dot = name.find('.', at);
    if (dot == std::string::npos) return;
    at = dot + 1;
  }
}

/// The exchanges of prefixes that make names fit, those that fit the most names first.
std::vector<Exchange> find_exchanges(const std::vector<std::string>& keys,
                                     const std::unordered_set<std::string>& names) {
  std::unordered_map<std::string, std::vector<std::string>> prefixes_of;  // by the rest of a name
  for (const std::string& name : names) {
    divide(name, [&](const std::string& prefix, const std::string& rest) {
      // A last part such as `weight` fits nearly everything.
      if (prefix.empty() || rest.find('.') != std::string::npos) {
        prefixes_of[rest].push_back(prefix);
      }
    });
  }
  std::map<std::pair<std::string, std::string>, size_t> counts;
  for (const std::string& key : keys) {
    divide(key, [&](const std::string& prefix, const std::string& rest) {
      const auto found = prefixes_of.find(rest);
      if (found == prefixes_of.end()) return;
      for (const std::string& to : found->second) {
        // `a.x` to `b.x` is the shorter form of `a.c.x` to `b.c.x`.
        if (!to.empty() && !prefix.empty() && prefix == to) continue;
        ++counts[{prefix, to}];
      }
    });
  }
  std::vector<Exchange> exchanges;
  exchanges.reserve(counts.size());
  for (const auto& [prefixes, count] : counts) {
    exchanges.push_back({prefixes.first, prefixes.second, count});
  }
  std::sort(exchanges.begin(), exchanges.end(), [](const Exchange& a, const Exchange& b) {
    return a.fitting != b.fitting ? a.fitting > b.fitting : a.simpler_than(b);
  });
  return exchanges;
}

void apply_exchange(Value& state_dict, const Exchange& exchange,
                    const std::unordered_set<std::string>& names) {
  rename_keys(state_dict, [&](const std::string& key) -> std::optional<std::string> {
    if (!begins_with(key, exchange.from)) return key;
    std::string name = exchange.to + key.substr(exchange.from.size());
    // What does not fit keeps its name, for messages, unless it only loses a prefix.
    return exchange.to.empty() || names.count(name) ? name : key;
  });
  if (exchange.to.empty()) {
    log_info("the checkpoint's state_dict has '{}' before every name; it is removed",
             exchange.from);
  } else if (exchange.from.empty()) {
    log_info("the checkpoint's tensors are those of the model's '{}'",
             exchange.to.substr(0, exchange.to.size() - 1));
  } else {
    log_info("the checkpoint's '{}' is read as the model's '{}'",
             exchange.from.substr(0, exchange.from.size() - 1),
             exchange.to.substr(0, exchange.to.size() - 1));
  }
}

bool is_counter(const std::string& name, const Value& value) {
  const std::string last = name.substr(name.rfind('.') + 1);
  const bool known =
      std::find(std::begin(kCounters), std::end(kCounters), last) != std::end(kCounters);
  return known && (!value.is_tensor() || value.as_tensor().numel() == 1);
}

void leave_out_counters(Value& state_dict, const std::unordered_set<std::string>& names) {
  auto& entries = state_dict.entries();
  entries.erase(std::remove_if(entries.begin(), entries.end(),
                               [&](const Value::Entry& entry) {
                                 const std::string& name = entry.first.as_string();
                                 return !names.count(name) && is_counter(name, entry.second);
                               }),
                entries.end());
}

bool excluded(const std::vector<std::string>& patterns, const std::string& name,
              std::vector<bool>& used) {
  bool found = false;
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (::fnmatch(patterns[i].c_str(), name.c_str(), 0) != 0) continue;
    used[i] = true;
    found = true;
  }
  return found;
}

[[noreturn]] void fail_unused(const char* rule, const std::string& text,
                              const std::vector<std::string>& keys) {
  fail<CheckpointError>("{} '{}' fits none of its tensors, which are: {}", rule, text,
                        list_names(keys));
}

}  // namespace

std::string common_prefix(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string prefix = names.front();
  for (const std::string& name : names) {
    const auto size = std::min(prefix.size(), name.size());
    const auto end = std::mismatch(
        prefix.begin(), prefix.begin() + static_cast<std::ptrdiff_t>(size), name.begin());
    prefix.resize(static_cast<size_t>(end.first - prefix.begin()));
  }
  const size_t dot = prefix.rfind('.');
  return dot == std::string::npos ? "" : prefix.substr(0, dot + 1);
}

void apply_name_rules(Value& state_dict, const NameRules& rules) {
  if (rules.empty()) return;
  const std::vector<std::string> keys = keys_of(state_dict);
  std::vector<bool> stripped(rules.strip.size()), mapped(rules.map.size()),
      left_out(rules.exclude.size());
  rename_keys(state_dict, [&](const std::string& key) -> std::optional<std::string> {
    if (excluded(rules.exclude, key, left_out)) return std::nullopt;
    std::string name = key;
    for (size_t i = 0; i < rules.strip.size(); ++i) {
      if (!begins_with(name, rules.strip[i])) continue;
      stripped[i] = true;
      name = name.substr(rules.strip[i].size());
      break;
    }
    for (size_t i = 0; i < rules.map.size(); ++i) {
      const auto& [from, to] = rules.map[i];
      if (!begins_with(name, from)) continue;
      mapped[i] = true;
      name = to + name.substr(from.size());
      break;
    }
    if (excluded(rules.exclude, name, left_out)) return std::nullopt;
    return name;
  });
  const auto check_used = [&](const char* rule, const std::vector<bool>& used, const auto& text) {
    for (size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) fail_unused(rule, text(i), keys);
    }
  };
  check_used("prefix.strip", stripped, [&](size_t i) { return rules.strip[i]; });
  check_used("prefix.map", mapped, [&](size_t i) { return rules.map[i].first; });
  check_used("exclude", left_out, [&](size_t i) { return rules.exclude[i]; });
}

void remove_wrapper_names(Value& dict) {
  std::set<std::string> found;
  const auto without = [&](std::string name) {
    if (name.size() > kLongestName) return name;
    for (const std::string_view wrapper : kWrappers) {
      for (size_t at = name.find(wrapper); at != std::string::npos; at = name.find(wrapper, at)) {
        if (at > 0 && name[at - 1] != '.') {
          ++at;
          continue;
        }
        found.emplace(wrapper);
        name.erase(at, wrapper.size());
      }
    }
    return name;
  };
  for (const auto& [key, value] : dict.entries()) {
    if (key.kind() == Value::Kind::string) without(key.as_string());
  }
  if (found.empty()) return;
  rename_keys(dict, [&](const std::string& key) { return std::optional(without(key)); });
  log_info("the names of the checkpoint's tensors contain '{}'; it is removed",
           fmt::join(found, "' and '"));
}

void match_names(Value& state_dict, const ModelRef& model) {
  std::unordered_set<std::string> names;
  for (const NamedTensor& item : model.tensors()) names.insert(item.name);
  std::vector<std::string> keys = keys_of(state_dict);
  const auto fits = [&](const std::string& key) { return names.count(key) > 0; };
  check_one_way(keys, names);
  if (std::any_of(keys.begin(), keys.end(), fits)) return;
  remove_wrapper_names(state_dict);
  keys = keys_of(state_dict);
  check_one_way(keys, names);
  if (std::none_of(keys.begin(), keys.end(), fits)) {
    const std::vector<Exchange> exchanges = find_exchanges(keys, names);
    // Two tensors of a hundred that have common names, such as `norm.weight`, say nothing.
    const size_t least = std::max<size_t>(1, std::min(keys.size(), names.size()) / 5);
    if (exchanges.empty() || exchanges.front().fitting < least) return;
    const Exchange& best = exchanges.front();
    if (exchanges.size() > 1 && exchanges[1].fitting == best.fitting &&
        !best.simpler_than(exchanges[1])) {
      fail<CheckpointError>(
          "state_dict fits the model {} and {} before its names; choose one with load_from: "
          "{{path, prefix: {{strip, map}}}}",
          best.text(), exchanges[1].text());
    }
    apply_exchange(state_dict, best, names);
  }
  leave_out_counters(state_dict, names);
}

}  // namespace polyak
