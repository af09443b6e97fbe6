// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/exponential_moving_average.h"

namespace polyak {

ExponentialMovingAverage::ExponentialMovingAverage(const Model& model,
                                                   ExponentialMovingAverageOptions options,
                                                   ModuleFactory factory)
    : AveragedModel(model, checked(options, "ExponentialMovingAverage"), std::move(factory)),
      options_(std::move(options)) {}

double ExponentialMovingAverage::rule(int64_t /*k*/) const {
  return options_.momentum();
}

}  // namespace polyak
