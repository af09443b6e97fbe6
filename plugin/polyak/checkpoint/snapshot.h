// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// A copy on the CPU that later changes of the tensors do not reach. Tensors that share a storage
/// share one in the copy; each storage is copied once.
/// @throws CheckpointError if there is not enough memory
POLYAK_API Value snapshot(const Value& value);

}  // namespace polyak
