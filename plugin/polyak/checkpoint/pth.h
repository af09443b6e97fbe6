// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// Writes a checkpoint that Python's `torch.load(path, weights_only=True)` reads: a zip archive of
/// a pickle and raw tensor storages. Tensors may be on any device and have any strides; tensors
/// that share a storage also share it in the file. Storages are written one at a time, so only one
/// is copied in memory. The new file is written under a temporary name, flushed to disk and
/// renamed: an existing file stays intact until the new one replaces it.
///
/// Floats are saved as zero-dimensional float64 tensors, which weights_only reads from torch 1.13
/// on. If `value` is a dict with the key `optimizer`, they are saved as plain floats, which
/// Python's optimizers need and weights_only reads from torch 2.0 on.
/// @throws CheckpointError naming the path and the reason, such as a missing folder, a full disk or
/// missing permissions.
POLYAK_API void write_pth(const std::string& path, const Value& value);

/// A checkpoint is truncated, or its bytes have changed since it was written.
class POLYAK_API DamagedCheckpointError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
  ~DamagedCheckpointError() override;
};

/// Reads a file of write_pth(), of Python's torch.save, also in its format before PyTorch 1.6, with
/// the same kinds of values, or of LibTorch's torch::save and torch.jit.save. A module in it
/// becomes a dict of its parameters and buffers under their dotted names. Executes no code of the
/// file. Tensors are on the CPU and have their saved dtype, shape and strides. Verifies the
/// checksum of each record; if the archive has none, logs that: if all are 0, and in the format
/// before PyTorch 1.6.
/// @throws CheckpointError naming the path and what is wrong: the file is missing, is not a
/// checkpoint, or contains an unsupported kind of object.
/// @throws DamagedCheckpointError naming the damaged record.
POLYAK_API Value read_pth(const std::string& path);

}  // namespace polyak
