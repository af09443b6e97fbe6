// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <string_view>

#include "polyak/core/export.h"

namespace polyak {

enum class LogLevel { debug, info, warning, error };

/// Receives every message, without a newline.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Replaces the sink that receives messages and returns the previous one. An empty sink restores
/// the default, which writes to standard error. Safe from any thread, but not from within a sink.
/// The sink is called by one thread at a time. Messages that are logged from within a sink, or that
/// a sink fails to handle by throwing, go to standard error.
POLYAK_API LogSink set_log_sink(LogSink sink);

/// Passes a message to the sink. Safe from any thread. Does not throw what the sink throws.
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
