// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

/// Everything that an average needs to continue with the same bits. AveragedModel::state_dict()
/// returns it, AveragedModel::load_state_dict() restores it. save_average()
/// (polyak/runtime/saved_average.h) writes it into a checkpoint, saved_average() reads it back.
///
/// The tensors are handles to the average's own, as in a state_dict of PyTorch: later updates
/// change them. Take a clone() to keep the values of this moment.
struct POLYAK_API AverageState {
  std::string rule;   // AveragedModel::rule_name()
  Node options;       // AveragedModel::rule_options(), a mapping
  int64_t steps = 0;  // updates so far, from 0
  /// Every parameter and buffer, by the model's names and in its order, in the model's dtypes.
  std::vector<NamedTensor> values;
  /// The averages that are kept in another dtype than the model's, in that one: float32 for float16
  /// and bfloat16, float64 with `precision: float64`. A subset of `values`, rounded there.
  std::vector<NamedTensor> exact;
  /// With `precision: compensated`, what float32 cannot hold: int16, in units of 2^-16 of the last
  /// place, of the shapes of the averages. Empty otherwise.
  std::vector<NamedTensor> compensation;

  /// The same with tensors of its own, on the same devices.
  AverageState clone() const;
};

}  // namespace polyak
