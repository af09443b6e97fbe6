// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/Version.h>
#include <torch/version.h>

#include <string>

#include "polyak/core/export.h"
#include "polyak/registry/registry.h"
#include "polyak/version.h"

/// The C++ library and its modes in words, which must be the same for a plugin and Polyak. The rest
/// of the ABI is the same for g++ and clang, so the compiler is named but not compared.
#if defined(_LIBCPP_VERSION)
#define POLYAK_CXX_ABI "libc++"
#elif defined(_GLIBCXX_DEBUG)
#define POLYAK_CXX_ABI "libstdc++ in debug mode (_GLIBCXX_DEBUG)"
#elif !_GLIBCXX_USE_CXX11_ABI
#define POLYAK_CXX_ABI "libstdc++ with the old ABI (_GLIBCXX_USE_CXX11_ABI=0)"
#else
#define POLYAK_CXX_ABI "libstdc++ with the C++11 ABI"
#endif

#if defined(__clang__)
#define POLYAK_COMPILER "clang " __clang_version__
#else
#define POLYAK_COMPILER "g++ " __VERSION__
#endif

namespace polyak {

/// Counts changes of the plugin interface: of PluginInfo, Catalog, Registry and the classes that
/// plugins derive from. docs/versioning.md has the history. 4: the members and virtual functions of
/// AveragedModel and Runner changed.
constexpr int kPluginApi = 5;

/// What a plugin was built with. The loader compares it to its own before it calls anything else.
struct PluginInfo {
  int api;                     // must stay the first member: if it differs, the others are not read
  const char* polyak_version;  // POLYAK_VERSION
  const char* libtorch_version;  // TORCH_VERSION
  const char* cxx_abi;           // POLYAK_CXX_ABI
  const char* compiler;          // for the message
};

}  // namespace polyak

/// Defines the entry points of a plugin. The body receives the Catalog and registers components.
///
///     POLYAK_PLUGIN(catalog) {
///       catalog.of<polyak::Hook>().add<MyOptions>("MyHook", "What it does.", ...);
///     }
#define POLYAK_PLUGIN(catalog)                                                              \
  extern "C" POLYAK_API const polyak::PluginInfo* polyak_plugin_info() {                    \
    static const polyak::PluginInfo info{polyak::kPluginApi, POLYAK_VERSION, TORCH_VERSION, \
                                         POLYAK_CXX_ABI, POLYAK_COMPILER};                  \
    return &info;                                                                           \
  }                                                                                         \
  extern "C" POLYAK_API void polyak_plugin_register(polyak::Catalog& catalog)
