// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace polyak::cli {
namespace {

constexpr const char* kOrigin = "_origin";

struct Column {
  std::string metric;
  std::string title;
};

std::vector<Column> columns_of(const Scalars& metrics, const AverageSet& averages) {
  std::string rule;
  for (const NamedAverage& item : averages) {
    if (item.name.empty()) rule = item.average->rule_name();
  }
  std::vector<Column> columns;
  for (const auto& [name, value] : metrics) {
    if (metrics.count(name + kOrigin)) {
      columns.push_back({name + kOrigin, name + ", raw weights"});
      columns.push_back({name, fmt::format("{}, averaged by {}", name, rule)});
    } else if (name.size() < std::string(kOrigin).size() ||
               name.substr(name.size() - std::string(kOrigin).size()) != kOrigin) {
      columns.push_back({name, name});
    }
  }
  return columns;
}

}  // namespace

std::string validation_table(const std::vector<TrainRunner::Validation>& validations,
                             const AverageSet& averages) {
  if (validations.empty()) return "";
  const std::vector<Column> columns = columns_of(validations.back().metrics, averages);
  const char* unit = validations.back().by_epoch ? "epoch" : "iteration";
  std::string text = fmt::format("\n| {} |", unit);
  std::string rule = fmt::format("|{:-<{}}|", "", std::string(unit).size() + 2);
  for (const Column& column : columns) {
    text += fmt::format(" {} |", column.title);
    rule += fmt::format("{:-<{}}|", "", column.title.size() + 2);
  }
  text += "\n" + rule + "\n";
  for (const TrainRunner::Validation& validation : validations) {
    text += fmt::format("| {:>{}} |", validation.number, std::string(unit).size());
    for (const Column& column : columns) {
      const auto found = validation.metrics.find(column.metric);
      text += found == validation.metrics.end()
                  ? fmt::format(" {:>{}} |", "", column.title.size())
                  : fmt::format(" {:>{}.2f} |", found->second, column.title.size());
    }
    text += "\n";
  }
  return text;
}

}  // namespace polyak::cli
