// SPDX-License-Identifier: Apache-2.0
#pragma once

// The averages of Polyak. Their options, formulas and sources are in rules/.
#include "polyak/averaging/average.h"
#include "polyak/rules/cosine_ema.h"
#include "polyak/rules/exp_momentum_ema.h"
#include "polyak/rules/exponential_moving_average.h"
#include "polyak/rules/momentum_annealing_ema.h"
#include "polyak/rules/stochastic_weight_average.h"

namespace polyak {

class POLYAK_API ExponentialMovingAverage final : public Average<ExponentialMovingAverageOptions> {
 public:
  using Average::Average;
};

class POLYAK_API MomentumAnnealingEMA final : public Average<MomentumAnnealingEMAOptions> {
 public:
  using Average::Average;
};

class POLYAK_API ExpMomentumEMA final : public Average<ExpMomentumEMAOptions> {
 public:
  using Average::Average;
};

class POLYAK_API StochasticWeightAverage final : public Average<StochasticWeightAverageOptions> {
 public:
  using Average::Average;
};

class POLYAK_API CosineEMA final : public Average<CosineEMAOptions> {
 public:
  using Average::Average;
};

}  // namespace polyak
