// SPDX-License-Identifier: Apache-2.0
// Which weights a metric of save_best was measured on.
#include <algorithm>
#include <map>

#include "polyak/hooks/checkpoint_hook.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::string CheckpointHook::weights_of(Runner& runner, const std::string& metric,
                                       const Scalars& metrics) const {
  std::map<std::string, std::string> measured;
  runner.hooks().call([&](const Hook& hook) { measured.merge(hook.measured_weights()); });
  const std::vector<std::string> plain = runner.metric_names();
  const auto is_plain = [&](const std::string& name) {
    return plain.empty() ? metrics.count(name) > 0
                         : std::count(plain.begin(), plain.end(), name) > 0;
  };
  if (plain.empty() || !is_plain(metric)) {
    for (const auto& [suffix, weights] : measured) {
      if (suffix.empty() || !ends_with(metric, suffix)) continue;
      if (is_plain(metric.substr(0, metric.size() - suffix.size()))) return weights;
    }
  }
  const auto own = measured.find("");
  return own == measured.end() ? "raw" : own->second;
}

}  // namespace polyak
