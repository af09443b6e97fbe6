// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polyak {

/// How averaged weights get into the model.
enum class SwapMode {
  exchange,  // by pointers, at once whatever the size: the tensors' addresses change meanwhile
  copy,      // by values: addresses stay, as a captured CUDA graph or a cached pointer needs it;
             // takes memory for the raw weights
};

}  // namespace polyak
