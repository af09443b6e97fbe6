// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace polyak::cli {

/// Sets up the process's streams and signals before anything else. Only the command does this: a
/// library changes neither.
///
/// Standard input, output and error that are closed become /dev/null. Otherwise the next file to be
/// opened would get their number, and everything written to them. SIGPIPE and SIGXFSZ are ignored,
/// so that a closed pipe or a limit on file sizes makes a write fail, which is handled, instead of
/// ending the process.
void guard_streams();

/// Restores the signals as the parent process set them, for a program that replaces this one. The
/// streams that guard_streams() opened are then closed automatically.
void restore_signals();

/// Writes to standard error; does nothing if nobody reads it.
void print_error(std::string_view text) noexcept;

/// Writes to standard output. finish_output() reports errors.
void write_output(std::string_view text) noexcept;
template <class... Args>
void print(fmt::format_string<Args...> format, Args&&... args) {
  write_output(fmt::format(format, std::forward<Args>(args)...));
}

/// Flushes standard output. It is not a failure if a reader went away (a closed pipe, a terminal
/// that is gone): it has seen enough.
/// @return `status`, or 1 with a message if output was lost for another reason
int finish_output(int status) noexcept;

}  // namespace polyak::cli
