// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/swap_state.h"

#include <algorithm>
#include <exception>
#include <mutex>

#include "polyak/core/error.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

/// The swaps that exchanged storages and have not ended. Threads may swap models of their own.
/// Never destroyed: guards may outlive main.
struct Exchanges {
  std::mutex mutex;
  std::vector<const SwapState*> active;

  static Exchanges& all() {
    static Exchanges& exchanges = *new Exchanges;
    return exchanges;
  }
};

void write(SwapMode mode, const at::Tensor& live, const at::Tensor& data) {
  if (mode == SwapMode::exchange) {
    live.set_data(data);
  } else {
    live.variable_data().copy_(data);  // the same storage, but not a leaf that requires a gradient
  }
  // A graph that saved the tensor earlier would compute gradients at weights that it never saw.
  if (!live.is_inference()) live.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

void SwapState::keep(const at::Tensor& live) {
  items.push_back(
      {live, mode == SwapMode::exchange ? live.variable_data() : live.variable_data().clone()});
}

void SwapState::leave(const at::Tensor& live) {
  items.push_back({live, live.variable_data(), /*left=*/true});
}

void SwapState::begin() {
  if (mode != SwapMode::exchange) return;
  Exchanges& exchanges = Exchanges::all();
  const std::lock_guard<std::mutex> lock(exchanges.mutex);
  exchanges.active.push_back(this);
}

bool SwapState::is_swapped(const at::Tensor& live) {
  Exchanges& exchanges = Exchanges::all();
  const std::lock_guard<std::mutex> lock(exchanges.mutex);
  return std::any_of(exchanges.active.begin(), exchanges.active.end(), [&](const SwapState* swap) {
    return std::any_of(swap->items.begin(), swap->items.end(),
                       [&](const Item& item) { return !item.left && item.live.is_same(live); });
  });
}

void SwapState::put(size_t i, const at::Tensor& data) {
  write(mode, items[i].live, data);
}

SwapState::~SwapState() {
  for (const Item& item : items) {
    if (item.left) continue;
    try {
      write(mode, item.live, item.raw);
    } catch (const std::exception& error) {
      // Happens only if a device failed, and the next call on it reports that too.
      log_warning("swap: the raw weights could not be put back ({}); do not continue training",
                  first_line(error));
    }
  }
  if (mode != SwapMode::exchange) return;
  Exchanges& exchanges = Exchanges::all();
  const std::lock_guard<std::mutex> lock(exchanges.mutex);
  exchanges.active.erase(std::remove(exchanges.active.begin(), exchanges.active.end(), this),
                         exchanges.active.end());
}

}  // namespace polyak
