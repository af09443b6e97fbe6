// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "polyak/averaging/process_group.h"
#include "polyak/core/export.h"

namespace polyak {

/// A host's own process group, for LoopHooks::process_group() and the like. Its backends must
/// support the devices of the model. Operations go to it in the host's order: call into Polyak from
/// the thread that uses it.
POLYAK_API std::shared_ptr<ProcessGroup> wrap_c10d(
    c10::intrusive_ptr<c10d::ProcessGroup> processes);

/// The c10d group of one that join_processes() or wrap_c10d() made; null for others.
POLYAK_API c10::intrusive_ptr<c10d::ProcessGroup> c10d_group(const ProcessGroup& processes);

}  // namespace polyak
