// SPDX-License-Identifier: Apache-2.0
#include "polyak/optim/saved_type.h"

#include <algorithm>
#include <cctype>
#include <initializer_list>

#include "polyak/config/load.h"
#include "polyak/core/text.h"

namespace polyak {
namespace {

/// optimizer_type() of MMEngine's configs, which are Python: `optimizer=dict(lr=0.1, type='SGD')`
/// in optim_wrapper; "" if it is not written in this form.
std::string python_optimizer_type(const std::string& config) {
  const std::string start = "optimizer=dict(";
  size_t at = config.find(start, std::min(config.find("optim_wrapper"), config.size()));
  if (at == std::string::npos) return "";
  at += start.size();
  int depth = 1;
  for (size_t i = at; i < config.size() && depth > 0; ++i) {
    if (config[i] == '(') ++depth;
    if (config[i] == ')') --depth;
    const bool is_key = config.compare(i, 6, "type='") == 0 &&
                        std::isalnum(static_cast<unsigned char>(config[i - 1])) == 0;
    if (depth != 1 || !is_key) continue;
    const std::string type = config.substr(i + 6, config.find('\'', i + 6) - (i + 6));
    return type.substr(type.rfind('.') + 1);
  }
  return "";
}

}  // namespace

const std::vector<Value>& groups_of(const Value& saved) {
  if (!saved.is_dict() || !saved.contains("state") || !saved.contains("param_groups")) {
    std::vector<std::string> keys;
    if (saved.is_dict()) {
      for (const auto& [key, value] : saved.entries()) {
        keys.push_back(key.kind() == Value::Kind::string ? key.as_string()
                                                         : std::to_string(key.as_int()));
      }
    }
    fail<CheckpointError>("optimizer: must contain 'state' and 'param_groups'; it {}",
                          saved.is_dict() ? "contains " + list_names(keys)
                                          : fmt::format("is a {}", saved.kind_name()));
  }
  const std::vector<Value>& groups = saved.at("param_groups").items();
  if (groups.empty()) fail<CheckpointError>("optimizer: its param_groups are empty");
  return groups;
}

std::string type_of_groups(const Value& saved) {
  const Value& group = groups_of(saved).front();
  const auto has = [&](std::initializer_list<const char*> keys) {
    return std::all_of(keys.begin(), keys.end(),
                       [&](const char* key) { return group.contains(key); });
  };
  if (has({"momentum", "dampening", "nesterov"})) return has({"eta"}) ? "LARS" : "SGD";
  if (has({"momentum", "alpha", "centered"})) return "RMSprop";
  if (has({"lr_decay", "initial_accumulator_value"})) return "Adagrad";
  if (!has({"betas", "eps", "amsgrad"})) return "another optimizer";
  const Value* decoupled = group.find("decoupled_weight_decay");
  if (!decoupled) return "Adam or AdamW";
  return decoupled->as_bool() ? "AdamW" : "Adam";
}

bool is_foreign_type(const std::string& type) {
  return type == "RMSprop" || type == "Adagrad" || type == "another optimizer";
}

Node config_of(const Value& checkpoint) {
  const Value* meta = checkpoint.find("meta");
  const Value* text = meta && meta->is_dict() ? meta->find("cfg") : nullptr;
  if (!text || text->kind() != Value::Kind::string) return {};
  try {
    const Node config = parse_config(text->as_string(), "meta.cfg");
    return config.is_mapping() ? config : Node();
  } catch (const ConfigError&) {
    return {};
  }
}

std::string optimizer_type(const Node& config) {
  const Node* node = &config;
  for (const char* key : {"optim_wrapper", "optimizer", "type"}) {
    node = node->is_mapping() ? node->find(key) : nullptr;
    if (!node) return "";
  }
  return node->is_scalar() ? node->text() : "";
}

std::string saved_type(const Value& checkpoint) {
  const std::string of_groups = type_of_groups(checkpoint.at("optimizer"));
  const std::string of_config = optimizer_type(config_of(checkpoint));
  if (of_groups == "SGD" || of_groups == "Adam" || of_groups == "AdamW") return of_groups;
  if (!of_config.empty()) return of_config;
  const Value* meta = checkpoint.find("meta");
  const Value* text = meta && meta->is_dict() ? meta->find("cfg") : nullptr;
  if (!text || text->kind() != Value::Kind::string) return of_groups;
  const std::string of_python = python_optimizer_type(text->as_string());
  return of_python.empty() ? of_groups : of_python;
}

}  // namespace polyak
