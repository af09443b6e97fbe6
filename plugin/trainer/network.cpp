#include "polyak/trainer/network.h"

namespace polyak {

Backbone::~Backbone() = default;
Loss::~Loss() = default;
Head::~Head() = default;
Algorithm::~Algorithm() = default;

}  // namespace polyak
