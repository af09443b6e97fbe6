// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// Writes tensors as `torch::save(module, path)` writes a module with these parameters and buffers,
/// so that `torch::load(module, path)` reads them; the dots in their names divide modules. Tensors
/// may be on any device. The file is complete or absent, like that of write_pth(), whose reader
/// reads it too.
/// @param tensors a dict of names and tensors
/// @throws CheckpointError naming the path, also for a name that is empty, or that is both a tensor
///   and a module
POLYAK_API void write_libtorch_archive(const std::string& path, const Value& tensors);

}  // namespace polyak
