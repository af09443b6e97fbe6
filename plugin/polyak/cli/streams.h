// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace polyak::cli {

/// What the command does to its process's streams and signals before anything else, for the command
/// alone: a library changes neither.
///
/// Standard input, output and error that are closed become /dev/null, or the next file that is
/// opened would take their number, and with it all that is written to them. SIGPIPE and SIGXFSZ are
/// ignored, so that a reader that went away and a limit on file sizes are errors of a write, which
/// are handled, and not the end of the process.
void guard_streams();

/// Puts the signals back as the parent process gave them, for a program that takes this one's
/// place. The streams that guard_streams() opened close by themselves then.
void restore_signals();

/// Writes to standard error; where nobody reads it, nothing happens.
void print_error(std::string_view text) noexcept;

/// Writes to standard output. What cannot be written is told by finish_output().
void write_output(std::string_view text) noexcept;
template <class... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  write_output(fmt::format(format, std::forward<Args>(args)...));
}

/// Writes out what standard output still holds. A reader that went away (a closed pipe, a terminal
/// that is gone) has seen enough: that is no failure.
/// @return `status`, or 1 with a message when output was lost otherwise
int finish_output(int status) noexcept;

}  // namespace polyak::cli
