// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/register.h"

#include "polyak/averaging/cosine_ema.h"
#include "polyak/averaging/exp_momentum_ema.h"
#include "polyak/averaging/exponential_moving_average.h"
#include "polyak/averaging/momentum_annealing_ema.h"
#include "polyak/averaging/stochastic_weight_average.h"

namespace polyak {
namespace {

template <class Average, class O>
void add(Registry<AveragedModel>& registry, const char* name, const char* doc) {
  registry.add<O>(name, doc, [](const O& options, const AveragedModel::Context& context) {
    return std::make_shared<Average>(*context.model, options);
  });
}

}  // namespace

void register_averages(Catalog& catalog) {
  auto& averages = catalog.of<AveragedModel>();
  add<ExponentialMovingAverage, ExponentialMovingAverageOptions>(
      averages, "ExponentialMovingAverage", "Exponential moving average with a constant momentum.");
  add<MomentumAnnealingEMA, MomentumAnnealingEMAOptions>(
      averages, "MomentumAnnealingEMA",
      "EMA whose weight falls from 1 to momentum as gamma / (gamma + k).");
  add<ExpMomentumEMA, ExpMomentumEMAOptions>(
      averages, "ExpMomentumEMA",
      "EMA whose weight falls from 1 to momentum exponentially, as in YOLOX.");
  add<StochasticWeightAverage, StochasticWeightAverageOptions>(
      averages, "StochasticWeightAverage",
      "Mean of all weights so far (SWA); a model with BatchNorm needs PreciseBNHook beside it.");
  averages.add<CosineEMAOptions>(
      "CosineEMA",
      "EMA whose momentum goes from momentum to end_momentum along a half cosine over the run.",
      [](CosineEMAOptions options, const AveragedModel::Context& context) {
        if (!options.max_iters() && context.max_iters) options.max_iters(*context.max_iters);
        return std::make_shared<CosineEMA>(*context.model, options);
      });
}

}  // namespace polyak
