// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "polyak/averaging/process_group.h"
#include "polyak/core/export.h"
#include "polyak/distributed/placement.h"

namespace polyak {

/// Why this build cannot train with several processes; "" if it can. It needs c10d and Gloo in
/// LibTorch, and Gloo's headers when it was built.
POLYAK_API std::string why_not_distributed();

/// Joins the processes of a run: c10d over Gloo. Returns when all of them are there.
/// @param timeout within which an operation has failed, and said who is missing, if another process
///   does not answer; up to 5 seconds of it are for finding that out
/// @throws ProcessGroupError if they do not come in time; ConfigError if this build or LibTorch
///   cannot do it
POLYAK_API std::shared_ptr<ProcessGroup> join_processes(const Placement& placement,
                                                        std::chrono::milliseconds timeout);

/// A second group of the same processes, with connections of its own: operations of one group and
/// of the other need no common order. Every process calls it.
/// @param processes from join_processes()
/// @throws ProcessGroupError; Error for a group of another maker
POLYAK_API std::shared_ptr<ProcessGroup> duplicate(const ProcessGroup& processes);

}  // namespace polyak
