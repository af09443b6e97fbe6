// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/register.h"

#include "polyak/averaging/averages.h"

namespace polyak {

void register_averages(Catalog& catalog) {
  register_average<ExponentialMovingAverage>(catalog);
  register_average<MomentumAnnealingEMA>(catalog);
  register_average<ExpMomentumEMA>(catalog);
  register_average<StochasticWeightAverage>(catalog);
  register_average<CosineEMA>(catalog);
  register_average<WarmupEMA>(catalog);
  register_average<RampUpEMA>(catalog);
  register_average<GrowingHalfLifeEMA>(catalog);
  register_average<BEMA>(catalog);
  register_average<SlidingWindowAverage>(catalog);
  register_average<PowerFunctionEMA>(catalog);
}

}  // namespace polyak
