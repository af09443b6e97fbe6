// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/runtime/average_set.h"

namespace polyak::cli {

/// What to say of an average that is too slow for its run: the first weights are still more than 5
/// % of it at the end, as with a constant momentum m where the horizon 1/m is longer than a third
/// of the run. Empty if it is fast enough, or if the number of updates is unknown.
std::string horizon_warning(const NamedAverage& item);

}  // namespace polyak::cli
