// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/state_dict.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <algorithm>
#include <map>
#include <set>

#include "polyak/core/log.h"

namespace polyak {
namespace {

constexpr const char* kModulePrefix = "module.";

bool begins_with(const std::string& text, const std::string& prefix) {
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

/// Rejects a state dict that names the model's tensors in two ways.
void check_one_way(const std::vector<std::string>& keys, const std::set<std::string>& names) {
  const std::string prefix = kModulePrefix;
  std::map<std::string, std::string> key_of;
  std::vector<std::string> bare, prefixed;
  for (const std::string& key : keys) {
    std::string name = key;
    while (begins_with(name, prefix) && !names.count(name)) name = name.substr(prefix.size());
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

}  // namespace

std::string list_names(const std::vector<std::string>& names, size_t shown) {
  const auto end = names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), shown));
  const std::string text = fmt::format("{}", fmt::join(names.begin(), end, ", "));
  return names.size() > shown ? fmt::format("{} and {} more", text, names.size() - shown) : text;
}

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

void match_names(Value& state_dict, const ModelRef& model) {
  std::set<std::string> names;
  for (const NamedTensor& item : model.tensors()) names.insert(item.name);
  const std::vector<std::string> keys = keys_of(state_dict);
  check_one_way(keys, names);
  if (std::any_of(keys.begin(), keys.end(), [&](const auto& key) { return names.count(key); })) {
    return;
  }
  std::vector<std::string> fitting;
  for (std::string prefix = common_prefix(keys); prefix.size() > 1;
       prefix.resize(prefix.rfind('.', prefix.size() - 2) + 1)) {
    const bool fits = std::any_of(keys.begin(), keys.end(), [&](const std::string& key) {
      return names.count(key.substr(prefix.size())) > 0;
    });
    if (fits) fitting.push_back(prefix);
  }
  if (fitting.empty()) return;
  if (fitting.size() > 1) {
    fail<CheckpointError>(
        "state_dict fits the model without '{}' and without '{}' before its names; rename its "
        "tensors",
        fitting[0], fitting[1]);
  }
  for (auto& [key, value] : state_dict.entries()) {
    key = Value(key.as_string().substr(fitting.front().size()));
  }
  log_info("the checkpoint's state_dict has '{}' before every name; it is removed",
           fitting.front());
}

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes().begin(), tensor.sizes().end(), ", "));
}

bool same_numbers(at::ScalarType a, at::ScalarType b) {
  return at::isFloatingType(a) == at::isFloatingType(b) &&
         at::isComplexType(a) == at::isComplexType(b) && (a == at::kBool) == (b == at::kBool);
}

std::string StateDifference::text() const {
  std::vector<std::string> parts;
  const auto add = [&](const char* what, const std::vector<std::string>& names) {
    if (!names.empty()) parts.push_back(fmt::format("{}: {}", what, list_names(names)));
  };
  add("missing in the checkpoint", missing);
  add("not in the model", unexpected);
  add("of another shape", mismatched);
  add("of another dtype", other_numbers);
  return fmt::format("{}", fmt::join(parts, "; "));
}

StateDifference compare_state_dict(const ModelRef& model, const Value& state_dict) {
  StateDifference result;
  std::set<std::string> names;
  for (const NamedTensor& item : model.tensors()) {
    names.insert(item.name);
    const Value* value = state_dict.find(item.name);
    if (!value || !value->is_tensor()) {
      result.missing.push_back(item.name);
      continue;
    }
    const at::Tensor& tensor = value->as_tensor();
    if (tensor.sizes() != item.tensor.sizes()) {
      result.mismatched.push_back(fmt::format("{} ({} in the checkpoint, {} in the model)",
                                              item.name, shape_text(tensor),
                                              shape_text(item.tensor)));
    } else if (!same_numbers(tensor.scalar_type(), item.tensor.scalar_type())) {
      result.other_numbers.push_back(fmt::format("{} ({} in the checkpoint, {} in the model)",
                                                 item.name, at::toString(tensor.scalar_type()),
                                                 at::toString(item.tensor.scalar_type())));
    } else {
      ++result.fitting;
    }
  }
  for (const auto& [key, value] : state_dict.entries()) {
    if (!names.count(key.as_string())) result.unexpected.push_back(key.as_string());
  }
  return result;
}

void load_state_dict(const ModelRef& model, const Value& state_dict) {
  const torch::NoGradGuard no_grad;
  for (const NamedTensor& item : model.tensors()) {
    const Value* value = state_dict.find(item.name);
    if (!value || !value->is_tensor()) continue;
    const at::Tensor& tensor = value->as_tensor();
    if (tensor.sizes() != item.tensor.sizes() ||
        !same_numbers(tensor.scalar_type(), item.tensor.scalar_type())) {
      continue;
    }
    at::Tensor(item.tensor).copy_(tensor);
  }
}

}  // namespace polyak
