#include "polyak/averaging/swap_guard.h"

#include <exception>

#include "polyak/averaging/swap_state.h"
#include "polyak/core/error.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

void write(SwapMode mode, const at::Tensor& live, const at::Tensor& data) {
  if (mode == SwapMode::exchange) {
    live.set_data(data);
  } else {
    live.variable_data().copy_(data);  // the same storage, but no leaf that needs a gradient
  }
  // A graph that saved the tensor before this would take gradients at weights that it never saw.
  if (!live.is_inference()) live.unsafeGetTensorImpl()->bump_version();
}

}  // namespace

void SwapGuard::State::keep(const at::Tensor& live) {
  items.push_back(
      {live, mode == SwapMode::exchange ? live.variable_data() : live.variable_data().clone()});
}

void SwapGuard::State::put(size_t i, const at::Tensor& data) {
  write(mode, items[i].live, data);
}

SwapGuard::State::~State() {
  for (const Item& item : items) {
    try {
      write(mode, item.live, item.raw);
    } catch (const std::exception& error) {
      // Only a device that broke down can come here, and the next call on it will say so too.
      log_warning("swap: the raw weights could not be put back ({}); do not train on",
                  first_line(error));
    }
  }
}

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
