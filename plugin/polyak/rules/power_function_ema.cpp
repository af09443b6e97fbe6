// SPDX-License-Identifier: Apache-2.0
#include "polyak/rules/power_function_ema.h"

namespace polyak {

double power_function_gamma(double sigma_rel) {
  if (!(sigma_rel > 0)) fail<ConfigError>("sigma_rel is {}, but must be above 0", sigma_rel);
  if (sigma_rel >= kMaxSigmaRel) return 0;
  // The largest root of a cubic, which is convex and grows from there on: Newton's method comes
  // down from 1 / sigma_rel, where the cubic is above 0.
  const double t = 1 / (sigma_rel * sigma_rel);
  double gamma = 1 / sigma_rel;
  for (int i = 0; i < 100; ++i) {
    const double value = ((gamma + 7) * gamma + (16 - t)) * gamma + (12 - t);
    const double slope = (3 * gamma + 14) * gamma + (16 - t);
    const double next = gamma - value / slope;
    if (!(next < gamma)) break;
    gamma = next;
  }
  return std::max(gamma, 0.0);
}

double power_function_sigma_rel(double gamma) {
  return std::sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2);
}

}  // namespace polyak
