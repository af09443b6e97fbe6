// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"

namespace polyak::pickle {

struct Pickled {
  std::string bytes;
  /// The elements of `storages[i]` are the record `data/<i>`. Each is still where it was, on its
  /// device; none need be contiguous.
  std::vector<at::Tensor> storages;
};

/// What Python's torch.save makes of the same value: protocol 2, tensors by _rebuild_tensor_v2.
/// Tensors that share a storage share a record; a view of a much larger storage that no other saved
/// tensor uses gets a record of its own elements only.
/// @throws CheckpointError naming the key path of what cannot be saved.
Pickled write(const Value& value);

}  // namespace polyak::pickle
