// SPDX-License-Identifier: Apache-2.0
// A config. What it is written out as must mean the same.
#include "fuzzing.h"
#include "polyak/config/load.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  // It would name files of this machine. Escapes may hide it, in which case there is no such file.
  if (text.find("_base_") != std::string::npos) return -1;
  std::string written;
  try {
    written = polyak::parse_config(text).dump();
  } catch (const polyak::ConfigError&) {
    return 0;
  }
  try {
    polyak::fuzz::require(polyak::parse_config(written).dump() == written,
                          "a config changes when it is written and read");
  } catch (const polyak::ConfigError& error) {
    polyak::fuzz::require(false, error.what());
  }
  return 0;
}
