// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/swap_state.h"

#include <exception>
#include <mutex>
#include <unordered_map>

#include "polyak/core/error.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

/// Tensors of models that hold an average's storage, and by how many swaps. Threads may swap models
/// of their own. Never destroyed: guards may outlive main.
struct Exchanged {
  std::mutex mutex;
  std::unordered_map<const void*, int> count_of;

  static Exchanged& all() {
    static Exchanged& exchanged = *new Exchanged;
    return exchanged;
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
  if (mode == SwapMode::exchange) {
    Exchanged& exchanged = Exchanged::all();
    const std::lock_guard<std::mutex> lock(exchanged.mutex);
    ++exchanged.count_of[live.unsafeGetTensorImpl()];
  }
  items.push_back(
      {live, mode == SwapMode::exchange ? live.variable_data() : live.variable_data().clone()});
}

void SwapState::leave(const at::Tensor& live) {
  items.push_back({live, live.variable_data(), /*left=*/true});
}

bool SwapState::is_swapped(const at::Tensor& live) {
  Exchanged& exchanged = Exchanged::all();
  const std::lock_guard<std::mutex> lock(exchanged.mutex);
  return exchanged.count_of.count(live.unsafeGetTensorImpl()) > 0;
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
  Exchanged& exchanged = Exchanged::all();
  const std::lock_guard<std::mutex> lock(exchanged.mutex);
  for (const Item& item : items) {
    const auto known = exchanged.count_of.find(item.live.unsafeGetTensorImpl());
    if (!item.left && --known->second == 0) exchanged.count_of.erase(known);
  }
}

}  // namespace polyak
