// SPDX-License-Identifier: Apache-2.0
// Headers that need no LibTorch, so that it compiles in a second.
#include <polyak/core/error.h>
#include <polyak/core/log.h>
#include <polyak/version.h>

#include <string>

int main() {
  std::string heard;
  polyak::set_log_sink([&](polyak::LogLevel, std::string_view message) { heard = message; });
  polyak::log_info("{}", POLYAK_VERSION);
  return heard == POLYAK_VERSION ? 0 : 1;
}
