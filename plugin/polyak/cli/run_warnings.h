// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/trainer/train_runner.h"

namespace polyak::cli {

/// What a config says that is valid but hardly meant, of the averages of a run that was set up:
///   - an average that is too slow: the first weights are still more than 5 % of it at the end, as
///     with a constant momentum m where the horizon 1/m is longer than a third of the run;
///   - a schedule of an average that ends long before the run, or before its own horizon;
///   - a plain mean of weights (SWA) whose BatchNorm has the statistics of the raw weights.
/// Averages whose number of updates is unknown have no such sentence.
std::vector<std::string> run_warnings(TrainRunner& runner);

}  // namespace polyak::cli
