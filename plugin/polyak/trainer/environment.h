// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "polyak/checkpoint/value.h"

namespace polyak {

/// What the last digits of a run depend on besides its config: LibTorch's version, the CPU's
/// instructions that it uses, its threads, the device, the processes, and the number of training
/// samples. A checkpoint has it as `meta.environment`.
Value environment_of(c10::Device device, int64_t samples, int64_t processes);

/// Logs what differs between the environments of a checkpoint and of the run that resumes it, and
/// what that means for its results. Nothing for files that do not say.
void log_environment_differences(const Value& checkpoint, const Value& now);

}  // namespace polyak
