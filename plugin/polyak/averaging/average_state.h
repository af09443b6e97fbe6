// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/averaging/kept_tensors.h"
#include "polyak/averaging/model.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

/// Everything that an average needs to continue with the same bits. AveragedModel::state_dict()
/// returns it, and AveragedModel::load_state_dict() restores it. save_average()
/// (polyak/runtime/saved_average.h) writes it into a checkpoint, and saved_average() reads it back.
///
/// The tensors are handles to the average's own, as in PyTorch's state_dict: later updates change
/// them. Use clone() to keep the current values.
struct POLYAK_API AverageState {
  std::string rule;   // AveragedModel::rule_name()
  Node options;       // AveragedModel::rule_options(), a mapping
  int64_t steps = 0;  // updates so far, from 0
  /// Every parameter and buffer, with the model's names, order and dtypes.
  std::vector<NamedTensor> values;
  /// The averages whose dtype differs from the model's, in their own dtype: float32 for float16 and
  /// bfloat16, float64 with `precision: float64`. A subset of `values`, which holds them rounded.
  std::vector<NamedTensor> exact;
  /// With `precision: compensated`, the part that float32 cannot hold: int16, in units of 2^-16 of
  /// the last place, with the shapes of the averages. Empty otherwise.
  std::vector<NamedTensor> compensation;
  /// What rules keep beside that: BEMA its running average and first weights, SlidingWindowAverage
  /// its mean in float64 and its snapshots. Empty for others.
  std::vector<KeptTensors> kept;
  /// Numbers that `steps` does not give: `origin`, the update from which the average counts, where
  /// that is not 0; `restarted_at`, the one at which write_back last restarted it; and `filled` of
  /// averages with bias_correction. A mapping, usually empty.
  Node numbers = Node::mapping();

  /// A deep copy, on the same devices.
  AverageState clone() const;
};

}  // namespace polyak
