// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything that a training loop needs to average weights.
#include "polyak/averaging/average_state.h"
#include "polyak/averaging/averages.h"
#include "polyak/averaging/soft_update.h"
#include "polyak/embed/loop_hooks.h"
#include "polyak/version.h"
