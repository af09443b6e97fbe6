// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/averaging/averages.h"
#include "polyak/averaging/register.h"
#include "polyak/core/log.h"

namespace polyak::test {

inline at::Tensor average_of(const AveragedModel& average, const std::string& name) {
  return average.named_averages()[name];
}

/// The first value of an averaged tensor.
inline double first_of(const AveragedModel& average, const std::string& name = "weight") {
  return average_of(average, name).flatten()[0].item<double>();
}

inline ExponentialMovingAverageOptions ema(double momentum) {
  return ExponentialMovingAverageOptions().momentum(momentum);
}

/// The lines that an action logs.
inline std::vector<std::string> log_of(const std::function<void()>& action) {
  std::vector<std::string> lines;
  LogSink before = set_log_sink([&](LogLevel, std::string_view text) { lines.emplace_back(text); });
  action();
  set_log_sink(before);
  return lines;
}

/// Builds an average through the registry, as a config would.
inline std::shared_ptr<AveragedModel> build_average(
    const std::string& type, const Node& options, const ModelRef& model,
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
