// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"

namespace polyak::pickle {

struct Pickled {
  std::string bytes;
  /// The elements of `storages[i]` are the record `data/<i>`. The tensors are on their original
  /// devices and need not be contiguous.
  std::vector<at::Tensor> storages;
};

/// Pickles a value as Python's torch.save does: protocol 2, tensors by _rebuild_tensor_v2. Tensors
/// that share a storage share a record. If a tensor is a view of a much larger storage that no
/// other saved tensor uses, only its own elements are saved.
/// @throws CheckpointError with the key path of the value that cannot be saved.
Pickled write(const Value& value);

}  // namespace polyak::pickle
