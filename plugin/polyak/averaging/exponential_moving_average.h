// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/averaging/averages.h"  // moved there in 0.2; this header will be removed in 0.3
