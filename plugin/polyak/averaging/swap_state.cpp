// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/swap_state.h"

#include <exception>

#include "polyak/core/error.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

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

void SwapState::put(size_t i, const at::Tensor& data) {
  write(mode, items[i].live, data);
}

SwapState::~SwapState() {
  for (const Item& item : items) {
    try {
      write(mode, item.live, item.raw);
    } catch (const std::exception& error) {
      // Happens only if a device failed, and the next call on it reports that too.
      log_warning("swap: the raw weights could not be put back ({}); do not continue training",
                  first_line(error));
    }
  }
}

}  // namespace polyak
