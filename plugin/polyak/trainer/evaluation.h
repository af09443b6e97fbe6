// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "polyak/core/export.h"
#include "polyak/runtime/evaluation_scope.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/metrics.h"
#include "polyak/trainer/network.h"

namespace polyak {

/// Data and metrics of a validation or test.
struct Evaluation {
  std::shared_ptr<DataLoader> loader;
  std::vector<std::shared_ptr<Metric>> metrics;

  /// Runs the model, which is in eval mode, over all data.
  /// @param scope calls the hooks; null: no hooks are called
  /// @param before_batch called before each batch; an exception ends the pass
  /// @param add_up replaces numbers by their sums over all processes; null: there is one
  /// @throws DataError if metrics need labels and no sample has one
  Scalars run(Algorithm& model, c10::Device device, EvaluationScope* scope,
              const std::function<void()>& before_batch,
              const std::function<void(const at::Tensor&)>& add_up = nullptr) const;
  std::vector<std::string> metric_names() const;
};

}  // namespace polyak
