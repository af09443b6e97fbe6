// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/averaging/averaged_model.h"
#include "polyak/core/export.h"

namespace polyak {

/// What the name and the metadata of a snapshot of a power-function average say. It is a
/// `.safetensors` file of the averaged tensors.
struct PostHocSnapshot {
  std::string path;
  double gamma = 0;      // the exponent
  double sigma_rel = 0;  // the same as a width
  int64_t step = 0;      // t: the updates that the average has made, the first copy included
  std::string dtype;     // of the file's floating-point tensors
  std::string run;       // the same for all snapshots of a run, also of a resumed one
  std::vector<std::string> copied;  // tensors that hold the model's newest values, not averages
};

/// The file of a snapshot in a folder: `00002000_0.05.safetensors`.
POLYAK_API std::string post_hoc_path(const std::string& folder, int64_t step, double sigma_rel);

/// The snapshots' files in a folder, in the order of their names; none if there is no such folder.
POLYAK_API std::vector<std::string> post_hoc_files(const std::string& folder);

/// Writes the snapshot of an average in `snapshot.dtype` to `snapshot.path`, atomically.
/// @throws CheckpointError naming the path and the reason
POLYAK_API void write_post_hoc_snapshot(const AveragedModel& average,
                                        const PostHocSnapshot& snapshot);

}  // namespace polyak
