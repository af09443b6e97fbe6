// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/checkpoint_averages.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>

#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/runtime/tensor_names.h"

namespace polyak {
namespace {

constexpr const char* kRaw = "raw";
constexpr const char* kAveraged = "averaged";
constexpr const char* kEmaState = "ema_state_dict";
constexpr const char* kSteps = "steps";
// Not std::string: attach saves while a program's static objects are destroyed.
constexpr std::string_view kModule = kAveragePrefix;
constexpr std::string_view kNamed = "ema_state_dict.";

/// A key of `polyak.averages`.
std::string record_key(const std::string& name) {
  return name.empty() ? "ema" : name;
}

/// The names of the tensors in an average's entry, `module.` included.
std::vector<std::string> tensor_names(const Value& ema_state) {
  std::vector<std::string> names;
  for (const auto& [key, value] : ema_state.entries()) {
    if (key.kind() == Value::Kind::string && key.as_string() != kSteps) {
      names.push_back(key.as_string());
    }
  }
  return names;
}

void match_names_of(Value& ema_state, const std::string& entry, const Value& state_dict) {
  remove_wrapper_names(ema_state);
  const std::vector<std::string> keys = tensor_names(ema_state);
  if (keys.empty()) return;
  std::vector<std::string> fitting;
  std::string prefix = common_prefix(keys);
  for (int parts = 0; parts < 16; ++parts) {  // a hostile file could have a million
    const bool fits = std::all_of(keys.begin(), keys.end(), [&](const std::string& key) {
      return state_dict.contains(key.substr(prefix.size()));
    });
    if (fits) fitting.push_back(prefix);
    if (prefix.size() <= 1) break;
    prefix.resize(prefix.rfind('.', prefix.size() - 2) + 1);
  }
  if (fitting.empty()) return;
  if (std::count(fitting.begin(), fitting.end(), kModule)) return;  // as it should be
  if (fitting.size() > 1) {
    fail<CheckpointError>(
        "{} fits state_dict without '{}' and without '{}' before its names; rename its tensors",
        entry, fitting[0], fitting[1]);
  }
  for (auto& [key, value] : ema_state.entries()) {
    if (key.kind() != Value::Kind::string || key.as_string() == kSteps) continue;
    key = Value(std::string(kModule) + key.as_string().substr(fitting.front().size()));
  }
  log_info("the checkpoint's {} has '{}' before its names instead of 'module.'; it is read as such",
           entry, fitting.front());
}

/// Why two sides cannot be exchanged; "" if they can.
std::string why_not_exchanged(const Value& state_dict, const Value& ema_state) {
  std::vector<std::string> only_here, only_there, different;
  std::set<std::string> there;
  for (const std::string& key : tensor_names(ema_state)) {
    const bool has_prefix = key.compare(0, kModule.size(), kModule) == 0;
    const std::string name = has_prefix ? key.substr(kModule.size()) : key;
    const Value* other = has_prefix ? state_dict.find(name) : nullptr;
    if (!other) {
      only_there.push_back(key);
      continue;
    }
    there.insert(name);
    const Value& value = ema_state.at(key);
    const bool alike =
        value.is_tensor() == other->is_tensor() &&
        (!value.is_tensor() ||
         (value.as_tensor().sizes() == other->as_tensor().sizes() &&
          same_numbers(value.as_tensor().scalar_type(), other->as_tensor().scalar_type())));
    if (!alike) different.push_back(name);
  }
  for (const auto& [key, value] : state_dict.entries()) {
    if (!there.count(key.as_string())) only_here.push_back(key.as_string());
  }
  std::string text;
  const auto add = [&](const char* what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", what, list_names(names));
  };
  add("only in state_dict", only_here);
  add("only in the other", only_there);
  add("of another shape or dtype", different);
  return text;
}

void check_exchange(const Value& checkpoint, const std::string& entry) {
  const Value* ema_state = checkpoint.find(entry);
  if (!ema_state) {
    fail<CheckpointError>("its polyak.state_dict needs '{}', which is missing", entry);
  }
  if (!ema_state->is_dict()) {
    fail<CheckpointError>("its '{}' is a {}, expected a dict", entry, ema_state->kind_name());
  }
  const std::string reason = why_not_exchanged(checkpoint.at("state_dict"), *ema_state);
  if (reason.empty()) return;
  fail<CheckpointError>(
      "{} must hold the tensors of state_dict, each with 'module.' before its name, since one of "
      "the two holds the raw weights; {}",
      entry, reason);
}

/// The entry to exchange with `state_dict` so that it holds `weights`; "" for none.
std::string entry_of(const Value& checkpoint, const std::string& weights) {
  const bool averaged = checkpoint.contains(kEmaState);  // what state_dict holds as saved
  if (weights == (averaged ? kAveraged : kRaw)) return "";
  return weights == kRaw || weights == kAveraged ? kEmaState : average_key(weights);
}

/// The entry that restore_state_dict() exchanges; "" for none.
std::string entry_to_restore(const Value& checkpoint) {
  const Value* ours = checkpoint.find("polyak");
  const Value* weights = ours ? ours->find("state_dict") : nullptr;
  return weights ? entry_of(checkpoint, weights->as_string()) : "";
}

Value to_value(const Node& node) {
  if (node.is_bool()) return node.as_bool();
  if (node.is_int()) return node.as_int();
  if (node.is_number()) return node.as_double();
  if (node.is_scalar()) return node.text();
  Value value;
  if (node.is_mapping()) {
    value = Value::dict();
    for (const auto& [key, entry] : node.entries()) value.set(key, to_value(entry));
  } else if (node.is_sequence()) {
    value = Value::list();
    for (const Node& item : node.items()) value.items().push_back(to_value(item));
  }
  return value;
}

/// A value that a config cannot express becomes null, so that a damaged option does not stop a run
/// that ignores it.
Node to_node(const Value& value) {
  switch (value.kind()) {
    case Value::Kind::none:
    case Value::Kind::opaque:
      return {};
    case Value::Kind::boolean:
      return value.as_bool();
    case Value::Kind::integer:
      return value.as_int();
    case Value::Kind::real:
      return value.as_real();
    case Value::Kind::tensor: {  // a number, in files without an optimizer
      const at::Tensor& tensor = value.as_tensor();
      return tensor.dim() == 0 && tensor.is_floating_point() ? Node(value.as_real()) : Node();
    }
    case Value::Kind::string:
      return value.as_string();
    case Value::Kind::list:
    case Value::Kind::tuple:
    case Value::Kind::set: {
      Node list = Node::sequence();
      for (const Value& item : value.items()) list.append(to_node(item));
      return list;
    }
    case Value::Kind::dict: {
      Node mapping = Node::mapping();
      for (const auto& [key, entry] : value.entries()) {
        if (key.kind() == Value::Kind::string) mapping.set(key.as_string(), to_node(entry));
      }
      return mapping;
    }
  }
  return {};
}

Value dict_of(const std::vector<NamedTensor>& tensors) {
  Value dict = Value::dict({}, /*ordered=*/true);
  for (const NamedTensor& item : tensors) dict.set(item.name, item.tensor);
  return dict;
}

}  // namespace

std::vector<NamedTensor> tensors_of(const Value& dict, const std::string& prefix) {
  std::vector<NamedTensor> tensors;
  for (const auto& [key, value] : dict.entries()) {
    if (!value.is_tensor() || key.kind() != Value::Kind::string) continue;
    const std::string& name = key.as_string();
    if (name.compare(0, prefix.size(), prefix) == 0) {
      tensors.push_back({name.substr(prefix.size()), value.as_tensor(), false});
    }
  }
  return tensors;
}

std::string average_key(const std::string& name) {
  return name.empty() ? kEmaState : std::string(kNamed) + name;
}

std::vector<std::string> averages_in(const Value& checkpoint) {
  std::vector<std::string> names;
  for (const auto& [key, value] : checkpoint.entries()) {
    if (key.kind() != Value::Kind::string) continue;
    const std::string& text = key.as_string();
    if (text == kEmaState) names.emplace_back();
    if (text.compare(0, kNamed.size(), kNamed) == 0) names.push_back(text.substr(kNamed.size()));
  }
  return names;
}

const Value* average_record(const Value& checkpoint, const std::string& name) {
  const Value* ours = checkpoint.find("polyak");
  const Value* averages = ours ? ours->find("averages") : nullptr;
  return averages ? averages->find(record_key(name)) : nullptr;
}

AverageState recorded_average(const Value& checkpoint, const std::string& name) {
  AverageState state;
  const Value* record = average_record(checkpoint, name);
  if (!record) return state;
  if (const Value* rule = record->find("rule")) state.rule = rule->as_string();
  if (const Value* options = record->find("options")) state.options = to_node(*options);
  if (const Value* exact = record->find("average")) state.exact = tensors_of(*exact);
  if (const Value* compensation = record->find("compensation")) {
    state.compensation = tensors_of(*compensation);
  }
  if (const Value* kept = record->find("kept"); kept && kept->is_dict()) {
    for (const auto& [kind, tensors] : kept->entries()) {
      if (kind.kind() == Value::Kind::string && tensors.is_dict()) {
        state.kept.push_back({kind.as_string(), tensors_of(tensors)});
      }
    }
  }
  if (const Value* numbers = record->find("numbers"); numbers && numbers->is_dict()) {
    state.numbers = to_node(*numbers);
  }
  return state;
}

void set_average_record(Value& checkpoint, const std::string& name, const AverageState& state,
                        const std::string& count) {
  Value record = Value::dict();
  record.set("rule", state.rule);
  record.set("options", to_value(state.options));
  if (!count.empty()) record.set("count", count);
  if (!state.exact.empty()) record.set("average", dict_of(state.exact));
  if (!state.compensation.empty()) record.set("compensation", dict_of(state.compensation));
  if (!state.kept.empty()) {
    Value kept = Value::dict();
    for (const KeptTensors& item : state.kept) kept.set(item.kind, dict_of(item.tensors));
    record.set("kept", std::move(kept));
  }
  if (!state.numbers.entries().empty()) record.set("numbers", to_value(state.numbers));
  Value& ours = checkpoint.at("polyak");
  if (!ours.contains("averages")) ours.set("averages", Value::dict());
  ours.at("averages").set(record_key(name), std::move(record));
}

int64_t average_steps(const Value& checkpoint, const std::string& name) {
  const Value* value = checkpoint.at(average_key(name)).find(kSteps);
  if (!value) fail<CheckpointError>("{} has no 'steps'", average_key(name));
  const bool is_number =
      value->kind() == Value::Kind::integer ||
      (value->is_tensor() && value->as_tensor().numel() == 1 &&
       at::isIntegralType(value->as_tensor().scalar_type(), /*includeBool=*/false));
  if (!is_number) fail<CheckpointError>("{}.steps is not an integer", average_key(name));
  const int64_t steps = value->is_tensor() ? value->as_tensor().item<int64_t>() : value->as_int();
  if (steps < 0) {
    fail<CheckpointError>("{}.steps is {}; it counts updates, from 0", average_key(name), steps);
  }
  return steps;
}

void match_average_names(Value& checkpoint) {
  for (const std::string& name : averages_in(checkpoint)) {
    Value& ema_state = checkpoint.at(average_key(name));
    if (!ema_state.is_dict()) {
      fail<CheckpointError>("its '{}' is a {}, expected a dict", average_key(name),
                            ema_state.kind_name());
    }
    match_names_of(ema_state, average_key(name), checkpoint.at("state_dict"));
  }
}

void exchange_weights(Value& state_dict, Value& ema_state) {
  for (auto& [key, value] : ema_state.entries()) {
    const std::string& name = key.as_string();
    if (name.compare(0, kModule.size(), kModule) != 0) continue;
    if (Value* other = state_dict.find(name.substr(kModule.size()))) std::swap(*other, value);
  }
}

void exchange_weights_of(Value& checkpoint, const std::string& name) {
  check_exchange(checkpoint, average_key(name));
  exchange_weights(checkpoint.at("state_dict"), checkpoint.at(average_key(name)));
}

void check_raw_weights(const Value& checkpoint) {
  const std::string restored = entry_to_restore(checkpoint);
  if (!restored.empty()) check_exchange(checkpoint, restored);
  if (checkpoint.contains(kEmaState)) check_exchange(checkpoint, kEmaState);
}

void put_into_state_dict(Value& checkpoint, const std::string& weights) {
  const std::string entry = entry_of(checkpoint, weights);
  if (!entry.empty()) exchange_weights(checkpoint.at("state_dict"), checkpoint.at(entry));
  if (!checkpoint.contains("polyak")) checkpoint.set("polyak", Value::dict());
  checkpoint.at("polyak").set("state_dict", weights);
}

void restore_state_dict(Value& checkpoint) {
  const std::string entry = entry_to_restore(checkpoint);
  if (!entry.empty()) {
    check_exchange(checkpoint, entry);
    exchange_weights(checkpoint.at("state_dict"), checkpoint.at(entry));
  }
  Value* ours = checkpoint.find("polyak");
  if (Value* weights = ours ? ours->find("state_dict") : nullptr) {
    *weights = checkpoint.contains(kEmaState) ? kAveraged : kRaw;
  }
}

}  // namespace polyak
