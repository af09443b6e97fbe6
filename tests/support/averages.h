#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/register.h"

namespace polyak::test {

/// Builds an average through the registry, as a config would.
inline std::shared_ptr<AveragedModel> build_average(
    const std::string& type, const Node& options, const Model& model,
    std::optional<int64_t> max_iters = std::nullopt) {
  Catalog catalog;
  register_averages(catalog);
  Node node = options;
  node.set("type", type);
  AveragedModel::Context context;
  context.model = model;
  context.max_iters = max_iters;
  return catalog.of<AveragedModel>().build(node, context);
}

inline Node to_node(const nlohmann::json& json) {
  if (json.is_boolean()) return Node(json.get<bool>());
  if (json.is_number_integer()) return Node(json.get<int64_t>());
  if (json.is_number()) return Node(json.get<double>());
  if (json.is_string()) return Node(json.get<std::string>());
  Node node;
  for (const auto& [key, value] : json.items()) node.set(key, to_node(value));
  return node.is_null() ? Node::mapping() : node;
}

}  // namespace polyak::test
