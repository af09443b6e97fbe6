// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attach/weights_dump.h"
#include "polyak/averaging/averaged_model.h"

/// Appends the averages, in the form of dump_weights.
inline void dump_averages(std::ofstream& file, const polyak::AveragedModel& average) {
  for (const auto& item : average.named_averages()) {
    dump_tensor(file, item.key(), item.value(), false);
  }
  file << '\n' << std::flush;
}
