// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "polyak/averaging/swap_mode.h"
#include "polyak/core/export.h"

namespace polyak {

struct SwapState;

/// Keeps averaged weights in the model until it is destroyed, also when an exception is thrown.
/// Movable.
class POLYAK_API SwapGuard {
 public:
  SwapGuard() = default;  // guards nothing
  SwapGuard(SwapGuard&&) noexcept = default;
  SwapGuard& operator=(SwapGuard&& other) noexcept;
  ~SwapGuard();
  /// Puts the raw weights back now.
  void release() noexcept;

 private:
  friend class AveragedModel;
  explicit SwapGuard(std::shared_ptr<SwapState> state) : state_(std::move(state)) {}
  std::shared_ptr<SwapState> state_;
};

}  // namespace polyak
