// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/Storage.h>

#include <functional>
#include <string>
#include <string_view>

#include "polyak/checkpoint/value.h"

namespace polyak::pickle {

/// Gives the storage of the record `data/<key>`, which must have exactly `bytes` bytes, or throws.
using StorageLoader = std::function<c10::Storage(const std::string& key, size_t bytes)>;

/// Reads a pickle of torch.save. It knows a handful of Python names by heart, calls nothing, and
/// trusts no number in `bytes`: time and memory stay in proportion to what the file holds.
/// @throws CheckpointError naming the key path, where one is known, and what cannot be read.
Value read(std::string_view bytes, const StorageLoader& load_storage);

}  // namespace polyak::pickle
