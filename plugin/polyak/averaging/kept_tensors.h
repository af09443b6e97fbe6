// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/averaging/model.h"

namespace polyak {

/// Tensors that a rule keeps of each averaged tensor, beside its average.
struct KeptTensors {
  std::string kind;                  // "first", "snapshot_3"
  std::vector<NamedTensor> tensors;  // with the shapes of the averages
};

}  // namespace polyak
