// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/console_log.h"

#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <string_view>
#include <utility>

#include "polyak/cli/streams.h"
#include "polyak/core/log.h"

namespace polyak::cli {
namespace {

spdlog::level::level_enum convert(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

const char* name_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return "DEBUG";
    case LogLevel::info:
      return "INFO";
    case LogLevel::warning:
      return "WARNING";
    case LogLevel::error:
      return "ERROR";
  }
  return "";
}

}  // namespace

ConsoleLog::ConsoleLog() : logger_("polyak", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
  // A line takes the place of a progress bar, which is drawn again behind it.
  const char* const over_a_bar = ::isatty(STDERR_FILENO) != 0 ? "\r\x1b[K" : "";
  logger_.sinks().front()->set_pattern(fmt::format("{}%m/%d %H:%M:%S - polyak - %v", over_a_bar));
  logger_.set_error_handler([this](const std::string& message) {
    if (!std::exchange(failed_, true)) {
      print_error(fmt::format("polyak: {}; continuing without the log file\n", message));
    }
  });
  set_log_sink([this](LogLevel level, std::string_view text) {
    if (rank_ == 0) {
      logger_.log(convert(level), "{} - {}", name_of(level), text);
    } else if (level >= LogLevel::warning) {
      logger_.log(convert(level), "{} - rank {}: {}", name_of(level), rank_, text);
    }
  });
}

ConsoleLog::~ConsoleLog() {
  set_log_sink(nullptr);
}

void ConsoleLog::add_file(const std::string& file) {
  auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
  sink->set_pattern("%Y/%m/%d %H:%M:%S - polyak - %v");
  logger_.sinks().push_back(sink);
  logger_.flush_on(spdlog::level::info);
}

}  // namespace polyak::cli
