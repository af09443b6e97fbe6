// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "polyak/checkpoint/value.h"

// Internal to checkpoint: the format of torch.save before PyTorch 1.6, which it still writes with
// `_use_new_zipfile_serialization=False`.
namespace polyak {

/// Whether a file may be in that format by its first bytes: it begins with a pickle.
bool is_legacy_pth(std::string_view head);

/// Reads such a file: pickles in a row, then the raw elements of the storages, without checksums.
/// Memory is proportional to the file's size.
/// @throws DamagedCheckpointError if the file is truncated or contradicts itself
/// @throws CheckpointError if it is in another format of pickles, or of a big-endian machine
Value read_legacy_pth(const std::string& path);

}  // namespace polyak
