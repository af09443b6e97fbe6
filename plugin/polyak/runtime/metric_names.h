// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

class Runner;

/// Names of the metrics that a validation of this run gives, those of hooks that measure other
/// weights included (`accuracy_slow`); empty if the runner does not know.
POLYAK_API std::vector<std::string> measured_metrics(Runner& runner);

/// @throws ConfigError, with the nearest name, unless a metric has this name. `hook` and `key` say
/// whose option it is; no names: they are unknown, and nothing is wrong
POLYAK_API void check_metric(const std::string& wanted, const std::vector<std::string>& names,
                             const char* hook, const char* key);

}  // namespace polyak
