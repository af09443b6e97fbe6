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
}

}  // namespace polyak
