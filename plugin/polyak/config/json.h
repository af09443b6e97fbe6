// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "polyak/config/node.h"

// Internal: nodes as JSON, in the order of their keys. Without places.
namespace polyak {

inline nlohmann::ordered_json json_of(const Node& node) {
  using Json = nlohmann::ordered_json;
  if (node.is_null()) return nullptr;
  if (node.is_bool()) return node.as_bool();
  if (node.is_int()) return node.as_int();
  if (node.is_number()) return node.as_double();
  if (node.is_scalar()) return node.text();
  Json json = node.is_sequence() ? Json::array() : Json::object();
  if (node.is_sequence()) {
    for (const Node& item : node.items()) json.push_back(json_of(item));
  } else {
    for (const auto& [key, value] : node.entries()) json[key] = json_of(value);
  }
  return json;
}

inline Node node_of(const nlohmann::ordered_json& json) {
  if (json.is_null()) return {};
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return json.get<std::string>();
  Node node = json.is_array() ? Node::sequence() : Node::mapping();
  for (const auto& [key, value] : json.items()) {
    json.is_array() ? node.append(node_of(value)) : void(node.set(key, node_of(value)));
  }
  return node;
}

}  // namespace polyak
