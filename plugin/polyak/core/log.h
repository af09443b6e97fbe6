// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>

#include "polyak/core/export.h"

namespace polyak {

enum class LogLevel { debug, info, warning, error };

/// Receives every message, without a line end.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Replaces where messages go and returns what was there; an empty sink restores the default,
/// standard error. Safe from any thread but from within a sink; the sink itself is called by one
/// thread at a time. A message that a sink throws at, and one that is logged from within a sink, go
/// to standard error.
POLYAK_API LogSink set_log_sink(LogSink sink);

POLYAK_API void write_log(LogLevel level, std::string_view message);

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  write_log(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  write_log(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace polyak
