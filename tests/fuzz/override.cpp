// SPDX-License-Identifier: Apache-2.0
// An override, KEY=VALUE, of a small config.
#include "fuzzing.h"
#include "polyak/config/load.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  polyak::Node config = polyak::parse_config("a: {b: [1, {c: 2}], d: x}\ne: null\n");
  try {
    polyak::apply_override(config, std::string(reinterpret_cast<const char*>(data), size));
  } catch (const polyak::ConfigError&) {
    return 0;
  }
  config.dump();
  return 0;
}
