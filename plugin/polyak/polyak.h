// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything that a training loop needs to average weights.
#include "polyak/averaging/cosine_ema.h"
#include "polyak/averaging/exp_momentum_ema.h"
#include "polyak/averaging/exponential_moving_average.h"
#include "polyak/averaging/momentum_annealing_ema.h"
#include "polyak/averaging/stochastic_weight_average.h"
#include "polyak/embed/loop_hooks.h"
#include "polyak/version.h"
