// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/network.h"

namespace polyak {

Backbone::~Backbone() = default;
Loss::~Loss() = default;
Head::~Head() = default;
Algorithm::~Algorithm() = default;

void check_parameters(double parameters, const char* keys) {
  if (parameters <= static_cast<double>(kMostParameters)) return;
  fail<SizeError>(
      "{} would make {:.3g} parameters, but the limit is 2^30 ({:.3g}); choose smaller ones", keys,
      parameters, static_cast<double>(kMostParameters));
}

}  // namespace polyak
