// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// Writes a checkpoint that Python's `torch.load(path, weights_only=True)` reads: a zip of a pickle
/// and raw tensor storages. Tensors may live on any device and have any strides; tensors that share
/// a storage share it in the file. Streams: memory stays at one storage at a time. The file is
/// written beside its place, flushed to disk and renamed, so what was there stays whole until then.
/// A dict with the entry `optimizer` holds plain floats, as Python's optimizers need them, which
/// weights_only reads from torch 2.0 on; in all other files numbers are tensors without dimensions,
/// for torch 1.13.
/// @throws CheckpointError naming the path and the reason (no such folder, no space, not
/// permitted).
POLYAK_API void write_pth(const std::string& path, const Value& value);

/// A checkpoint that is cut off, or whose bytes are not those that were written.
class POLYAK_API DamagedCheckpointError : public CheckpointError {
 public:
  using CheckpointError::CheckpointError;
  ~DamagedCheckpointError() override;
};

/// Reads what write_pth wrote (and Python's torch.save of the same kinds). Executes nothing.
/// Tensors come back on the CPU with their own dtype, shape and strides. The checksum of each
/// record that is read is compared; an archive without any (all are 0) is read with a line in the
/// log.
/// @throws CheckpointError naming the path and what is wrong: missing, no checkpoint, a kind of
/// object that this reader does not take; DamagedCheckpointError naming the record whose bytes are
/// wrong.
POLYAK_API Value read_pth(const std::string& path);

}  // namespace polyak
