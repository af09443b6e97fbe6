// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

#include "polyak/averaging/swap_mode.h"

namespace polyak {

/// What a SwapGuard holds: the model's tensors and their raw values.
struct SwapState {
  struct Item {
    at::Tensor live;    // the model's tensor
    at::Tensor raw;     // what it held
    bool left = false;  // it still holds that
  };

  explicit SwapState(SwapMode mode) : mode(mode) {}
  SwapState(const SwapState&) = delete;
  SwapState& operator=(const SwapState&) = delete;
  ~SwapState();

  /// Sets the raw value aside. In order: keep() or leave() for each tensor, as tensors may overlap,
  /// then begin(), then put().
  void keep(const at::Tensor& live);
  /// Lists a tensor that stays as it is.
  void leave(const at::Tensor& live);
  /// From here on, is_swapped() is true of what keep() listed.
  void begin();
  /// Puts `data` into the model.
  void put(size_t i, const at::Tensor& data);

  /// Whether a tensor of a model holds another storage than its own, because of some swap.
  static bool is_swapped(const at::Tensor& live);

  SwapMode mode;
  std::vector<Item> items;
};

}  // namespace polyak
