#pragma once

#include <ATen/Version.h>
#include <torch/version.h>

#include "polyak/core/export.h"
#include "polyak/registry/registry.h"
#include "polyak/version.h"

namespace polyak {

/// Counts changes of the plugin interface: of PluginInfo, Catalog, Registry and the classes that
/// plugins derive from.
constexpr int kPluginApi = 1;

/// What a plugin was built with; the loader compares it with its own before it calls anything else.
struct PluginInfo {
  int api;
  const char* polyak_version;
  const char* libtorch_version;
  int cxx11_abi;
};

}  // namespace polyak

/// Makes a shared library a plugin: its body receives the Catalog and registers what it brings.
///
///     POLYAK_PLUGIN(catalog) {
///       catalog.of<polyak::Hook>().add<MyOptions>("MyHook", "What it does.", ...);
///     }
#define POLYAK_PLUGIN(catalog)                                                              \
  extern "C" POLYAK_API const polyak::PluginInfo* polyak_plugin_info() {                    \
    static const polyak::PluginInfo info{polyak::kPluginApi, POLYAK_VERSION, TORCH_VERSION, \
                                         _GLIBCXX_USE_CXX11_ABI};                           \
    return &info;                                                                           \
  }                                                                                         \
  extern "C" POLYAK_API void polyak_plugin_register(polyak::Catalog& catalog)
