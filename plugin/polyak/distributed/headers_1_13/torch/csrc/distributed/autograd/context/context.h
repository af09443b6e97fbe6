// SPDX-License-Identifier: Apache-2.0
// The header of this name that Debian's LibTorch 1.13 lacks, although its c10d/reducer.hpp includes
// it: what that needs.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>

namespace torch::distributed::autograd {

class DistAutogradContext {
 public:
  using GradCallback = std::function<bool(at::Tensor&)>;
};
using ContextPtr = std::shared_ptr<DistAutogradContext>;

}  // namespace torch::distributed::autograd
