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

// Which average of a checkpoint goes on as which one of a run, and from which count. `owner` names
// the hook in messages.
namespace polyak {

/// What messages call an average: "'slow'", or "the one without a name".
POLYAK_API std::string average_title(const std::string& name);

/// The name of the checkpoint's average that goes on as the run's average `name`: its own, or, if
/// the run's averages claim none of another name by theirs, one that was made by the same rule and
/// options, where there is no doubt which. Nothing where the checkpoint has no average left.
/// @throws CheckpointError where one is left and it is not clear that it goes on here
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
