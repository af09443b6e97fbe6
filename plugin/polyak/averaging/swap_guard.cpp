// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/swap_guard.h"

#include "polyak/averaging/swap_state.h"

namespace polyak {

SwapGuard& SwapGuard::operator=(SwapGuard&& other) noexcept {
  release();
  state_ = std::move(other.state_);
  return *this;
}

SwapGuard::~SwapGuard() {
  release();
}

void SwapGuard::release() noexcept {
  state_.reset();
}

}  // namespace polyak
