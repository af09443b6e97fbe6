// SPDX-License-Identifier: Apache-2.0
#include "polyak/core/log.h"

#include <cstdio>
#include <exception>
#include <mutex>
#include <string>

namespace polyak {
namespace {

void write_to_stderr(LogLevel level, std::string_view message) {
  const char* name = level == LogLevel::warning ? "warning: "
                     : level == LogLevel::error ? "error: "
                                                : "";
  // Not fmt::print, which throws if nobody reads: a log message must not end the program.
  const std::string line = fmt::format("{}{}\n", name, message);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

struct Sink {
  std::mutex mutex;
  LogSink write = write_to_stderr;
};

Sink& sink() {
  static Sink& instance = *new Sink;  // never destroyed: code that runs at exit may log
  return instance;
}

}  // namespace

LogSink set_log_sink(LogSink replacement) {
  std::lock_guard<std::mutex> lock(sink().mutex);
  std::swap(sink().write, replacement);
  if (!sink().write) sink().write = write_to_stderr;
  return replacement;
}

void write_log(LogLevel level, std::string_view message) {
  thread_local bool in_sink = false;
  if (in_sink) return write_to_stderr(level, message);
  std::lock_guard<std::mutex> lock(sink().mutex);
  in_sink = true;
  try {
    sink().write(level, message);
  } catch (const std::exception& error) {
    write_to_stderr(level, message);
    write_to_stderr(LogLevel::warning, fmt::format("the log sink failed: {}", error.what()));
  } catch (...) {
    write_to_stderr(level, message);
  }
  in_sink = false;
}

}  // namespace polyak
