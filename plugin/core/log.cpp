#include "polyak/core/log.h"

#include <cstdio>
#include <mutex>
#include <string>

namespace polyak {
namespace {

void write_to_stderr(LogLevel level, std::string_view message) {
  const char* name = level == LogLevel::warning ? "warning: "
                     : level == LogLevel::error ? "error: "
                                                : "";
  // Not fmt::print, which throws where nobody reads: a message must not end what it speaks of.
  const std::string line = fmt::format("{}{}\n", name, message);
  std::fwrite(line.data(), 1, line.size(), stderr);
}

struct Sink {
  std::mutex mutex;
  LogSink write = write_to_stderr;
};

Sink& sink() {
  static Sink& instance = *new Sink;  // never destroyed: what runs at exit may warn
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
  std::lock_guard<std::mutex> lock(sink().mutex);
  sink().write(level, message);
}

}  // namespace polyak
