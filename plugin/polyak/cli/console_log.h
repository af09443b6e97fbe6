// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <spdlog/logger.h>

#include <cstdint>
#include <string>

namespace polyak::cli {

/// While it lives, Polyak's messages go to standard error in MMEngine's form, and to a file once
/// there is a work_dir. Make only one at a time: it takes the process's log sink.
class ConsoleLog {
 public:
  ConsoleLog();
  ~ConsoleLog();
  ConsoleLog(const ConsoleLog&) = delete;
  ConsoleLog& operator=(const ConsoleLog&) = delete;

  /// Also writes later messages to `file`. If writing fails later, one line says so and the run
  /// continues.
  /// @throws spdlog::spdlog_ex if the file cannot be opened
  void add_file(const std::string& file);
  /// Of several processes, those after the first only pass on warnings and errors, with their rank.
  void set_rank(int64_t rank) { rank_ = rank; }

 private:
  spdlog::logger logger_;
  bool failed_ = false;  // to write into the file
  int64_t rank_ = 0;
};

}  // namespace polyak::cli
