// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// Texts that a .safetensors file holds beside its tensors, by name.
using SafetensorsMetadata = std::map<std::string, std::string>;

/// Writes a .safetensors file: tensors under names, without pickle. Libraries in Python, Rust and
/// JavaScript read it. Tensors may be on any device and have any strides; they are written one at a
/// time, contiguous, so only one is copied in memory. Of names for one tensor (tied weights) only
/// the first has data in the file, as the format allows no shared data; the metadata maps each
/// other name to it, as Python's `safetensors.torch.save_model` does. Views that overlap without
/// being equal are written as copies. The new file is written under a temporary name, flushed to
/// disk and renamed: an existing file stays intact until the new one replaces it.
/// @param tensors a dict of str to Tensor, of the dtypes bool, (u)int8 to (u)int64, float16,
/// bfloat16, float32, float64, complex64, and those of 8 bits (float8_*) that LibTorch has
/// @param metadata written into the file's header. `format: pt`, which loaders ask for, is added
/// unless it has a `format`.
/// @throws CheckpointError naming the path and the tensor or entry that the format cannot hold (a
/// nested dict, a number, a sparse tensor, complex128), or the reason why the file cannot be
/// written.
POLYAK_API void write_safetensors(const std::string& path, const Value& tensors,
                                  const SafetensorsMetadata& metadata = {});

/// Reads a .safetensors file, or all shards of one that is split: the path then is that of the
/// index, `*.safetensors.index.json`, next to which the shards are. Names of tied weights that only
/// the metadata has are restored.
///
/// The tensors are views of the file, which is mapped into memory and read when they are used. They
/// may be written to: that changes no file. The mapping lives as long as one of its tensors. Until
/// then nobody may change the file in place: a process that truncates it ends this one by SIGBUS.
/// Replacing it by a rename, as write_safetensors() does, is safe. Tensors of files that do not
/// align their data are copied.
/// @return an ordered dict in the order of the header or index, of CPU tensors that are contiguous.
/// A tensor of a dtype that this LibTorch does not have is an opaque value.
/// @throws CheckpointError naming the path and what is wrong: the file is missing, is not a
/// .safetensors file, or has a tensor of unknown dtype.
/// @throws DamagedCheckpointError (pth.h) if the file is truncated or contradicts itself. The
/// format has no checksums, so changed values are not noticed.
POLYAK_API Value read_safetensors(const std::string& path);

/// Reads the texts beside the tensors: `__metadata__` of a file, or those texts in `metadata` of an
/// index. Empty if there are none.
/// @throws as read_safetensors
POLYAK_API SafetensorsMetadata read_safetensors_metadata(const std::string& path);

}  // namespace polyak
