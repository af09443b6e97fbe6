// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>

#include "polyak/core/error.h"
#include "polyak/core/log.h"

namespace polyak {

/// For destructors: runs `action`, and turns what it throws into a warning that says what was being
/// done ("putting modes back").
template <class Action>
void clean_up(const char* doing, Action&& action) noexcept {
  try {
    action();
  } catch (const std::exception& error) {
    log_warning("{} failed: {}", doing, first_line(error));
  } catch (...) {
    log_warning("{} failed", doing);
  }
}

}  // namespace polyak
