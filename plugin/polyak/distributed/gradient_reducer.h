// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/averaging/process_group.h"
#include "polyak/core/export.h"

namespace polyak {

/// Makes the gradients of all processes equal: their means.
///
///     reducer->forward();          // before the forward pass of an iteration
///     ...
///     reducer->backward(loss, true);
class POLYAK_API GradientReducer {
 public:
  /// How gradients are reduced.
  struct Options {
    /// A backward pass may leave parameters out. It costs a walk over each graph.
    bool find_unused_parameters = false;
    /// Gradients travel while the backward pass computes others, by LibTorch's own
    /// c10d::Reducer. Otherwise after it.
    bool overlap = true;
  };
  virtual ~GradientReducer();

  /// Before a forward pass whose gradients will be reduced.
  virtual void forward() = 0;
  /// The backward pass, which adds to the gradients of this process.
  /// @param loss a scalar tensor; undefined: this process has no samples, and its gradient is zero
  /// @param reduce whether gradients are replaced by their means over the processes: false for an
  ///   iteration that only accumulates, which then communicates nothing
  /// @throws ProcessGroupError
  virtual void backward(const at::Tensor& loss, bool reduce) = 0;
};

/// @param parameters of the model; the same ones in each process
POLYAK_API std::unique_ptr<GradientReducer> make_gradient_reducer(
    std::shared_ptr<ProcessGroup> processes, const std::vector<NamedTensor>& parameters,
    const GradientReducer::Options& options);

}  // namespace polyak
