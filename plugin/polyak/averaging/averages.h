// SPDX-License-Identifier: Apache-2.0
#pragma once

// The averages of Polyak. Their options, formulas and sources are in rules/.
#include "polyak/averaging/average.h"
#include "polyak/rules/bema.h"
#include "polyak/rules/cosine_ema.h"
#include "polyak/rules/exp_momentum_ema.h"
#include "polyak/rules/exponential_moving_average.h"
#include "polyak/rules/growing_half_life_ema.h"
#include "polyak/rules/momentum_annealing_ema.h"
#include "polyak/rules/power_function_ema.h"
#include "polyak/rules/ramp_up_ema.h"
#include "polyak/rules/sliding_window_average.h"
#include "polyak/rules/stochastic_weight_average.h"
#include "polyak/rules/warmup_ema.h"

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

class POLYAK_API PowerFunctionEMA final : public Average<PowerFunctionEMAOptions> {
 public:
  using Average::Average;
};

class POLYAK_API WarmupEMA final : public Average<WarmupEMAOptions> {
 public:
  using Average::Average;
};

class POLYAK_API RampUpEMA final : public Average<RampUpEMAOptions> {
 public:
  using Average::Average;
};

class POLYAK_API GrowingHalfLifeEMA final : public Average<GrowingHalfLifeEMAOptions> {
 public:
  using Average::Average;
};

/// See BEMAOptions.
class POLYAK_API BEMA final : public Average<BEMAOptions> {
 public:
  /// @throws ConfigError if an option is out of range
  explicit BEMA(const ModelRef& model, const BEMAOptions& options = {},
                ModuleFactory factory = nullptr);
};

/// See SlidingWindowAverageOptions.
class POLYAK_API SlidingWindowAverage final : public Average<SlidingWindowAverageOptions> {
 public:
  /// @throws ConfigError if an option is out of range
  explicit SlidingWindowAverage(const ModelRef& model,
                                const SlidingWindowAverageOptions& options = {},
                                ModuleFactory factory = nullptr);
};

}  // namespace polyak
