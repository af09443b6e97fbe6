// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Storage.h>

#include <cstddef>
#include <functional>
#include <string>

#include "polyak/checkpoint/pickle_input.h"
#include "polyak/checkpoint/value.h"

namespace polyak::pickle {

/// Returns the storage that a pickle calls by this key. Throws unless it has exactly `bytes` bytes.
/// @param element_size bytes of one of its elements
using StorageLoader =
    std::function<c10::Storage(const std::string& key, size_t bytes, size_t element_size)>;

/// Reads a pickle of torch.save, of protocol 2 to 5, and leaves `input` behind its end. It knows a
/// few Python names, calls nothing, and trusts no number in the pickle: time and memory are
/// proportional to its size. An object of a class that it does not know becomes an opaque value.
/// @throws DamagedCheckpointError for a pickle that contradicts itself
/// @throws CheckpointError with the key path, if known, and what cannot be read.
Value read(Input& input, const StorageLoader& load_storage);

}  // namespace polyak::pickle
