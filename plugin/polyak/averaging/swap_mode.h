// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace polyak {

/// How averaged weights get into the model.
enum class SwapMode {
  exchange,  // by pointers, fast for any size: the tensors' addresses change meanwhile
  copy,      // by values: addresses stay, as captured CUDA graphs and cached pointers require;
             // takes memory for the raw weights
};

}  // namespace polyak
