// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/momentum_annealing_ema.h"

#include <algorithm>

namespace polyak {

MomentumAnnealingEMA::MomentumAnnealingEMA(const Model& model, MomentumAnnealingEMAOptions options,
                                           ModuleFactory factory)
    : AveragedModel(model, checked(options, "MomentumAnnealingEMA"), std::move(factory)),
      options_(std::move(options)) {}

double MomentumAnnealingEMA::rule(int64_t k) const {
  return std::max(options_.momentum(),
                  options_.gamma() / (options_.gamma() + static_cast<double>(k)));
}

}  // namespace polyak
