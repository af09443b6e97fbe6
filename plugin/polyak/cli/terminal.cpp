// SPDX-License-Identifier: Apache-2.0
#include "polyak/cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>

namespace polyak::cli {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing sets variables
  return value ? value : "";
}

/// By the names of locales: C and POSIX do not say what a terminal can show.
bool names_another_encoding() {
  std::string locale;
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    if (locale.empty()) locale = variable(name);
  }
  const size_t dot = locale.find('.');
  if (dot == std::string::npos) return false;
  std::string encoding = locale.substr(dot + 1);
  std::transform(encoding.begin(), encoding.end(), encoding.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return encoding.rfind("utf-8", 0) != 0 && encoding.rfind("utf8", 0) != 0;
}

Terminal terminal_at(int descriptor) {
  Terminal terminal;
  const std::string kind = variable("TERM");
  const bool is_terminal = ::isatty(descriptor) != 0;
  terminal.color = is_terminal && kind != "dumb" && variable("NO_COLOR").empty();
  terminal.unicode = !names_another_encoding();
  winsize size{};
  int columns = 0;
  if (is_terminal && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0) columns = size.ws_col;
  if (columns <= 0) columns = std::atoi(variable("COLUMNS").c_str());
  if (columns > 0) terminal.columns = columns;
  return terminal;
}

}  // namespace

Terminal output_terminal() {
  return terminal_at(STDOUT_FILENO);
}

Terminal error_terminal() {
  return terminal_at(STDERR_FILENO);
}

}  // namespace polyak::cli
