// SPDX-License-Identifier: Apache-2.0
// As interface 1 made it: its PluginInfo ends where today's goes on.
#include "polyak/core/export.h"

namespace {

struct FirstPluginInfo {
  int api;
  const char* polyak_version;
  const char* libtorch_version;
  int cxx11_abi;
};

}  // namespace

extern "C" POLYAK_API const FirstPluginInfo* polyak_plugin_info() {
  static const FirstPluginInfo info{1, "0.1.0", "1.13.0", 1};
  return &info;
}

extern "C" POLYAK_API void polyak_plugin_register(void*) {}
