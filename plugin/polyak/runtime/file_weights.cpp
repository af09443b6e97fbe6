// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/file_weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "polyak/config/nearest.h"
#include "polyak/core/error.h"
#include "polyak/core/text.h"
#include "polyak/runtime/checkpoint_averages.h"

namespace polyak {
namespace {

constexpr size_t kMaxDepth = 3;

// The names under which libraries keep weights, the likeliest first.
constexpr std::string_view kRawKeys[] = {
    "state_dict", "model",          "model_state_dict", "module",  "model_state", "net",
    "network",    "net_state_dict", "params",           "weights", "student",     "online"};
constexpr std::string_view kAveragedKeys[] = {
    "state_dict_ema",       "model_ema",  "ema_model", "ema", "ema_state_dict",
    "model_ema_state_dict", "params_ema", "teacher"};
// Lightning's callback puts averages into `state_dict`, and the raw weights here.
constexpr const char* kLightningRaw = "current_model_state";

/// Whether a dict is one of tensors under names: more of them than of dicts, since a file may have
/// a tensor, such as the best accuracy, beside its state dicts.
bool holds_tensors(const Value& value) {
  if (!value.is_dict()) return false;
  size_t tensors = 0;
  size_t dicts = 0;
  for (const auto& [key, item] : value.entries()) {
    if (key.kind() != Value::Kind::string) continue;
    tensors += item.is_tensor() ? 1 : 0;
    dicts += item.is_dict() && !item.entries().empty() ? 1 : 0;
  }
  return tensors > dicts;
}

/// What an optimizer keeps is by parameter, not by name; other entries are of known meaning.
bool is_other_state(std::string_view key) {
  return key == "optimizer" || key == "optimizer_states" || key == "param_schedulers" ||
         key == "message_hub" || key == "polyak";
}

void collect(const Value& value, const std::string& path, size_t depth,
             std::vector<std::string>& found) {
  if (holds_tensors(value)) found.push_back(path);
  if (!value.is_dict() || depth == kMaxDepth) return;
  for (const auto& [key, item] : value.entries()) {
    if (key.kind() != Value::Kind::string || (depth == 0 && is_other_state(key.as_string()))) {
      continue;
    }
    collect(item, path.empty() ? key.as_string() : path + "." + key.as_string(), depth + 1, found);
  }
}

/// The entry at a key path, whose parts may contain dots themselves; nullptr if there is none.
Value* find_path(Value& value, const std::string& path) {
  if (path.empty()) return &value;
  if (!value.is_dict()) return nullptr;
  if (Value* whole = value.find(path)) return whole;
  for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
    Value* const entry = value.find(path.substr(0, dot));
    if (Value* found = entry ? find_path(*entry, path.substr(dot + 1)) : nullptr) return found;
  }
  return nullptr;
}

std::string choices(const std::vector<std::string>& keys) {
  std::vector<std::string> shown;
  shown.reserve(keys.size());
  for (const std::string& key : keys) shown.push_back(key.empty() ? "the file itself" : key);
  return list_names(shown);
}

/// An object that only Python could read, at a place where weights are expected; nullptr for none.
const Value* opaque_weights(const Value& file, std::string_view& key) {
  for (const std::string_view known : kRawKeys) {
    const Value* value = file.find(std::string(known));
    if (!value || !value->is_opaque()) continue;
    key = known;
    return value;
  }
  return nullptr;
}

/// The first of these keys that is or contains a state dict, such as `ema.module`; nothing if none
/// does.
template <class Keys>
std::optional<std::string> first_known(const Keys& keys, const std::vector<std::string>& found) {
  for (const std::string_view known : keys) {
    const std::string inside = fmt::format("{}.", known);
    for (const std::string& path : found) {
      if (path == known || path.compare(0, inside.size(), inside) == 0) return path;
    }
  }
  return std::nullopt;
}

/// Whether a file has averages as MMEngine and Polyak store them.
bool has_own_averages(const Value& file) {
  const std::vector<std::string> averages = averages_in(file);
  return file.contains("state_dict") && !averages.empty() &&
         std::all_of(averages.begin(), averages.end(), [&](const std::string& name) {
           const Value& entry = file.at(average_key(name));
           return entry.is_dict() && entry.contains("steps");
         });
}

}  // namespace

std::vector<std::string> all_weights(const Value& file) {
  std::vector<std::string> found;
  collect(file, "", 0, found);
  return found;
}

std::string find_weights(const Value& file) {
  // MMEngine's and ours, whatever else a file holds.
  if (const Value* own = file.find("state_dict");
      own && (own->is_dict() || file.contains("meta"))) {
    return "state_dict";
  }
  const std::vector<std::string> found = all_weights(file);
  if (const auto key = first_known(kRawKeys, found)) return *key;
  if (const auto key = first_known(kAveragedKeys, found)) return *key;
  if (found.size() == 1) return found.front();
  if (std::count(found.begin(), found.end(), ""))
    return "";  // a state dict that holds another dict
  if (!found.empty()) {
    fail<CheckpointError>(
        "holds several state dicts: {}; choose one with load_from: {{path, key: {}}}",
        choices(found), found.front());
  }
  std::string_view key;
  if (const Value* object = opaque_weights(file, key)) {
    fail<CheckpointError>(
        "its '{}' is a whole Python object, {}, which only Python can read; save its state_dict()",
        key, object->type_name());
  }
  std::vector<std::string> keys;
  for (const auto& [name, value] : file.entries()) {
    keys.push_back(name.kind() == Value::Kind::string ? name.as_string()
                                                      : fmt::format("{}", name.as_int()));
  }
  if (keys.empty()) return "";  // an empty state dict: nothing of it fits
  fail<CheckpointError>("holds no weights: no entry is a dict of tensors; its keys are {}",
                        list_names(keys));
}

Value checkpoint_with_weights(Value file, const std::string& key) {
  if (key == "state_dict" && file.contains(key)) return file;
  Value* const place = find_path(file, key);
  if (!place || !place->is_dict()) {
    const std::vector<std::string> found = all_weights(file);
    const std::string near = nearest_name(key, found);
    fail<CheckpointError>(
        "{}; {}it holds weights at: {}",
        place ? fmt::format("key '{}' is a {}, not a state dict", key, place->kind_name())
              : fmt::format("there is no key '{}'", key),
        near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
        found.empty() ? "no place" : choices(found));
  }
  Value weights = std::move(*place);
  if (key.empty()) return Value::dict({{"state_dict", std::move(weights)}});
  *place = Value();
  file.erase(key);
  // What is saved about an average belongs to the one that was in the file's state_dict.
  file.erase("polyak");
  file.erase("state_dict");
  file.set("state_dict", std::move(weights));
  return file;
}

std::vector<std::string> weight_kinds(const Value& file) {
  std::vector<std::string> kinds;
  if (has_own_averages(file)) {
    kinds.emplace_back("raw");
    for (const std::string& name : averages_in(file)) {
      kinds.push_back(name.empty() ? "averaged" : name);
    }
    return kinds;
  }
  if (file.contains(kLightningRaw) && file.contains("state_dict")) return {"raw", "averaged"};
  const std::vector<std::string> found = all_weights(file);
  if (first_known(kRawKeys, found)) kinds.emplace_back("raw");
  if (first_known(kAveragedKeys, found)) kinds.emplace_back("averaged");
  return kinds;
}

Value checkpoint_with_kind(Value file, const std::string& kind) {
  if (has_own_averages(file)) {
    match_average_names(file);
    restore_state_dict(file);  // as it was saved: averaged, if there is an average without a name
    const std::vector<std::string> names = averages_in(file);
    const bool averaged = std::count(names.begin(), names.end(), "") > 0;
    if (kind == (averaged ? "averaged" : "raw")) return file;
    const std::string name = kind == "raw" ? "" : kind;
    if (!std::count(names.begin(), names.end(), name)) {
      std::vector<std::string> kinds{"raw"};
      for (const std::string& known : names) kinds.push_back(known.empty() ? "averaged" : known);
      fail<CheckpointError>("holds no weights '{}'; it holds {}", kind, list_names(kinds));
    }
    exchange_weights_of(file, name);
    return file;
  }
  const std::vector<std::string> found = all_weights(file);
  const bool lightning = file.contains(kLightningRaw) && file.contains("state_dict");
  if (kind == "raw") {
    std::string key = lightning ? kLightningRaw : find_weights(file);
    return checkpoint_with_weights(std::move(file), key);
  }
  const std::optional<std::string> key = kind != "averaged" ? std::nullopt
                                         : lightning ? std::optional<std::string>("state_dict")
                                                     : first_known(kAveragedKeys, found);
  if (!key) {
    fail<CheckpointError>("holds no weights '{}'; it holds weights at: {}", kind, choices(found));
  }
  return checkpoint_with_weights(std::move(file), *key);
}

}  // namespace polyak
