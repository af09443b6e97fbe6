// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"
#include "polyak/runtime/average_set.h"
#include "polyak/runtime/progress.h"

// Which average of a checkpoint continues as which average of a run, and from which count. `owner`
// is the name of the hook in messages.
namespace polyak {

/// How messages refer to an average: "'slow'", or "the one without a name".
POLYAK_API std::string average_title(const std::string& name);

/// The name of the checkpoint's average that continues as the run's average `name`: the same name,
/// or else the only average that no other name of the run claims and that was made by the same rule
/// and options. Nothing if the checkpoint has no unclaimed average.
/// @throws CheckpointError if one is left and it is not clear that it continues here
POLYAK_API std::optional<std::string> find_resumed_average(
    const Value& checkpoint, const std::string& name, const std::vector<NamedAverage>& averages,
    const std::string& owner);

/// The updates that an average of a checkpoint made, in iterations or in optimizer steps. Other
/// programs count iterations, as MMEngine does.
/// @throws CheckpointError where the counts of the checkpoint contradict each other
POLYAK_API int64_t resumed_steps(const Value& checkpoint, const std::string& name,
                                 const Progress& progress, bool counts_iterations,
                                 const std::string& owner);

}  // namespace polyak
