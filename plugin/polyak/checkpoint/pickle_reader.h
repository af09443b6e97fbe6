// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Storage.h>

#include <functional>
#include <string>
#include <string_view>

#include "polyak/checkpoint/value.h"

namespace polyak::pickle {

/// Returns the storage of the record `data/<key>`. Throws unless it has exactly `bytes` bytes.
using StorageLoader = std::function<c10::Storage(const std::string& key, size_t bytes)>;

/// Reads a pickle of torch.save, of protocol 2 to 5. It knows a few Python names, calls nothing,
/// and trusts no number in `bytes`: time and memory are proportional to the size of the file. An
/// object of a class that it does not know becomes an opaque value.
/// @throws CheckpointError with the key path, if known, and what cannot be read.
Value read(std::string_view bytes, const StorageLoader& load_storage);

}  // namespace polyak::pickle
