#include "polyak/loader/loader.h"

#include <dlfcn.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>

#include "polyak/core/error.h"
#include "polyak/loader/plugin.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

fs::path own_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&own_folder), &info) == 0 || !info.dli_fname) return {};
  std::error_code error;
  return fs::canonical(info.dli_fname, error).parent_path();
}

std::string abi_name(int cxx11) {
  return cxx11 ? "the C++11 ABI" : "the old C++ ABI";
}

void check_versions(const PluginInfo& plugin, const std::string& path) {
  if (plugin.api != kPluginApi) {
    fail<PluginError>(
        "{}: was built for plugin interface {}, this is Polyak {} with interface {}; build the "
        "plugin again with this version's headers",
        path, plugin.api, POLYAK_VERSION, kPluginApi);
  }
  if (std::string(plugin.libtorch_version) != TORCH_VERSION) {
    fail<PluginError>(
        "{}: was built with LibTorch {}, this Polyak with {}; build both with the same LibTorch",
        path, plugin.libtorch_version, TORCH_VERSION);
  }
  if (plugin.cxx11_abi != _GLIBCXX_USE_CXX11_ABI) {
    fail<PluginError>(
        "{}: was built with {}, this Polyak with {}; set _GLIBCXX_USE_CXX11_ABI to {}", path,
        abi_name(plugin.cxx11_abi), abi_name(_GLIBCXX_USE_CXX11_ABI), _GLIBCXX_USE_CXX11_ABI);
  }
}

}  // namespace

std::string find_plugin(const std::string& name, const std::string& base_folder) {
  std::vector<std::string> looked;
  auto there = [&](const fs::path& path) {
    looked.push_back(path.string());
    std::error_code error;
    return fs::exists(path, error);
  };
  if (name.find('/') != std::string::npos) {
    const fs::path path =
        fs::path(name).is_absolute() ? fs::path(name) : fs::path(base_folder) / name;
    if (there(path)) return path.string();
  } else {
    const std::string file = name.size() > 3 && name.substr(name.size() - 3) == ".so"
                                 ? name
                                 : fmt::format("lib{}.so", name);
    std::vector<fs::path> folders{own_folder()};
    if (const char* list = std::getenv("POLYAK_PLUGIN_PATH")) {
      const std::string text = list;
      for (size_t begin = 0; begin <= text.size();) {
        const size_t end = std::min(text.find(':', begin), text.size());
        if (end > begin) folders.emplace_back(text.substr(begin, end - begin));
        begin = end + 1;
      }
    }
    for (const fs::path& folder : folders) {
      if (there(folder / file)) return (folder / file).string();
    }
  }
  fail<PluginError>(
      "plugin '{}' is not there; looked for {}. A path has a slash, as in ./libmine.so; a bare "
      "name is "
      "looked up beside libpolyak.so and in POLYAK_PLUGIN_PATH",
      name, fmt::join(looked, ", "));
}

void load_plugin(const std::string& path, Catalog& catalog) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);

  struct Close {
    void operator()(void* handle) const { dlclose(handle); }
  };
  std::unique_ptr<void, Close> handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!handle) {
    const char* reason = dlerror();
    fail<PluginError>("{}: is no shared library that can be loaded: {}", path,
                      reason ? reason : "unknown");
  }
  if (catalog.libraries().count(handle.get())) return;

  using InfoEntry = const PluginInfo* (*)();
  using RegisterEntry = void (*)(Catalog&);
  const auto info = reinterpret_cast<InfoEntry>(dlsym(handle.get(), "polyak_plugin_info"));
  const auto enter = reinterpret_cast<RegisterEntry>(dlsym(handle.get(), "polyak_plugin_register"));
  if (!info || !enter) {
    fail<PluginError>(
        "{}: is no Polyak plugin: it has no {}; write POLYAK_PLUGIN(catalog) {{ ... }} in one "
        "of its files",
        path, info ? "polyak_plugin_register" : "polyak_plugin_info");
  }
  const PluginInfo* built = info();
  if (!built)
    fail<PluginError>("{}: polyak_plugin_info gave nothing; write POLYAK_PLUGIN(catalog)", path);
  check_versions(*built, path);

  // The plugin fills a catalog of its own, and errors are copied into strings before the library is
  // closed: neither entries nor exceptions of a refused plugin may outlive its code.
  std::string refusal;
  {
    Catalog staging;
    try {
      enter(staging);
      catalog.absorb(staging);
    } catch (const std::exception& error) {
      refusal = first_line(error);
    } catch (...) {
      refusal = "an exception of an unknown type";
    }
  }
  if (!refusal.empty())
    fail<PluginError>("{}: could not register what it brings: {}", path, refusal);
  catalog.libraries().insert(handle.release());
}

}  // namespace polyak
