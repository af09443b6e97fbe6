// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/stochastic_weight_average.h"

namespace polyak {

StochasticWeightAverage::StochasticWeightAverage(const Model& model,
                                                 StochasticWeightAverageOptions options,
                                                 ModuleFactory factory)
    : AveragedModel(model, checked(options, "StochasticWeightAverage"), std::move(factory)),
      options_(std::move(options)) {}

double StochasticWeightAverage::rule(int64_t k) const {
  const int64_t snapshots = k / options_.interval() + 1;
  return 1.0 / static_cast<double>(snapshots);
}

}  // namespace polyak
