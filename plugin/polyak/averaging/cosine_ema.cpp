// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/cosine_ema.h"

#include <algorithm>
#include <cmath>

namespace polyak {
namespace {

const CosineEMAOptions& with_length(const CosineEMAOptions& options) {
  if (!options.max_iters()) {
    fail<ConfigError>(
        "CosineEMA: max_iters: is required, because nothing here says how many updates the run "
        "makes; "
        "set it to the number of optimizer steps");
  }
  return options;
}

}  // namespace

CosineEMA::CosineEMA(const Model& model, CosineEMAOptions options, ModuleFactory factory)
    : AveragedModel(model, checked(with_length(options), "CosineEMA"), std::move(factory)),
      options_(std::move(options)) {}

double CosineEMA::rule(int64_t k) const {
  const double length = static_cast<double>(*options_.max_iters());
  const double done = std::min(static_cast<double>(k) / length, 1.0);
  const double end = options_.end_momentum();
  return end + (options_.momentum() - end) * (1 + std::cos(M_PI * done)) / 2;
}

}  // namespace polyak
