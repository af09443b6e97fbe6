// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/exp_momentum_ema.h"

#include <cmath>

namespace polyak {

ExpMomentumEMA::ExpMomentumEMA(const Model& model, ExpMomentumEMAOptions options,
                               ModuleFactory factory)
    : AveragedModel(model, checked(options, "ExpMomentumEMA"), std::move(factory)),
      options_(std::move(options)) {}

double ExpMomentumEMA::rule(int64_t k) const {
  const double momentum = options_.momentum();
  return (1 - momentum) * std::exp(-(1 + static_cast<double>(k)) / options_.gamma()) + momentum;
}

}  // namespace polyak
