#include "polyak/trainer/network.h"

namespace polyak {

Backbone::~Backbone() = default;
Loss::~Loss() = default;
Head::~Head() = default;
Algorithm::~Algorithm() = default;

Algorithm::Losses Algorithm::loss_of_views(const std::vector<at::Tensor>& views,
                                           const at::Tensor& /*labels*/) {
  fail<ConfigError>(
      "the model takes one view of each image, but the data gives {}; take the MultiView out of "
      "the "
      "pipeline",
      views.size());
}

}  // namespace polyak
