// Claims what the build sets: another plugin interface, or another LibTorch.
#include "polyak/loader/plugin.h"

extern "C" POLYAK_API const polyak::PluginInfo* polyak_plugin_info() {
  static const polyak::PluginInfo info{POLYAK_TEST_API, POLYAK_VERSION, POLYAK_TEST_LIBTORCH,
                                       _GLIBCXX_USE_CXX11_ABI};
  return &info;
}

extern "C" POLYAK_API void polyak_plugin_register(polyak::Catalog&) {}
