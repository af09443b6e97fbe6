// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/runtime/runner.h"
#include "polyak/trainer/train_runner.h"

namespace polyak::cli {

/// Validations as a table for people: one line each, and for every metric one column, or two side
/// by side if both the averaged and the raw weights were measured (`accuracy` and
/// `accuracy_origin`).
std::string validation_table(const std::vector<TrainRunner::Validation>& validations,
                             const AverageSet& averages);

}  // namespace polyak::cli
