// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/streams.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <system_error>

namespace polyak::cli {
namespace {

struct Ignored {
  int signal;
  struct sigaction before;
};
Ignored ignored[] = {{SIGPIPE, {}}, {SIGXFSZ, {}}};
int output_error = 0;  // the first error of standard output

}  // namespace

void guard_streams() {
  // open() returns the lowest free number.
  for (int descriptor = 0; descriptor >= 0 && descriptor <= STDERR_FILENO;) {
    descriptor = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (descriptor > STDERR_FILENO) ::close(descriptor);
  }
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  for (Ignored& item : ignored) ::sigaction(item.signal, &ignore, &item.before);
}

void restore_signals() {
  for (const Ignored& item : ignored) ::sigaction(item.signal, &item.before, nullptr);
}

void print_error(std::string_view text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stderr);
}

void write_output(std::string_view text) noexcept {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size()) return;
  if (output_error == 0) output_error = errno;
}

int finish_output(int status) noexcept {
  if (std::fflush(stdout) != 0 && output_error == 0) output_error = errno;
  const bool reader_is_gone = output_error == EPIPE || output_error == EIO;
  if (output_error == 0 || reader_is_gone) return status;
  print_error(fmt::format("polyak: standard output cannot be written: {}\n",
                          std::generic_category().message(output_error)));
  return status == 0 ? 1 : status;
}

}  // namespace polyak::cli
