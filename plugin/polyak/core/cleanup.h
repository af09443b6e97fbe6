// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>

#include "polyak/core/error.h"
#include "polyak/core/log.h"

namespace polyak {

/// For destructors: runs `action` and logs a warning if it throws. `doing` says what was being
/// done, such as "restoring modes".
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
