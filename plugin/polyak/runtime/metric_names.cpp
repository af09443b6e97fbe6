// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/metric_names.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "polyak/config/nearest.h"
#include "polyak/core/error.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/runner.h"

namespace polyak {

std::vector<std::string> measured_metrics(Runner& runner) {
  std::vector<std::string> names = runner.metric_names();
  const std::vector<std::string> plain = names;
  runner.hooks().call([&](const Hook& hook) {
    for (const auto& [suffix, weights] : hook.measured_weights()) {
      if (suffix.empty()) continue;
      for (const std::string& name : plain) names.push_back(name + suffix);
    }
  });
  return names;
}

void check_metric(const std::string& wanted, const std::vector<std::string>& names,
                  const char* hook, const char* key) {
  if (names.empty() || std::count(names.begin(), names.end(), wanted) > 0) return;
  const std::string near = nearest_name(wanted, names);
  fail<ConfigError>("{}: {}: no metric is named '{}'; {}the metrics are: {}", hook, key, wanted,
                    near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                    fmt::join(names, ", "));
}

}  // namespace polyak
