// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/config/node.h"
#include "polyak/registry/registry.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/evaluation.h"
#include "polyak/trainer/starting_point.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

/// The data and the metrics of a run.
struct RunData {
  struct Context {
    const Catalog* catalog = nullptr;
    uint64_t seed = 0;
    bool training = true;  // false: for a test, without training data
    DataShare share = {};  // of this process
    const StartingPoint* start = nullptr;
    /// Returns the model's logits for images, for metrics that need more than the validation's
    /// batches.
    std::function<at::Tensor(const at::Tensor& images)> predict;
  };

  std::shared_ptr<DataLoader> train;  // null for a test
  std::optional<Evaluation> val, test;
  std::vector<std::string> classes;  // that the model learns or has learned; empty: no names

  /// The data that the model is built for.
  DataLoader& of_model() const { return train ? *train : *test->loader; }
};

/// Builds and checks a config's dataloaders and evaluators.
/// @throws ConfigError, DataError, CheckpointError if a run would be resumed with other classes
RunData build_run_data(const Node& config, const TrainConfig& options,
                       const RunData::Context& context);

}  // namespace polyak
