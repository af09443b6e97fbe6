// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/averages.h"  // where StochasticWeightAverage stands since 0.2; this header goes in 0.3
