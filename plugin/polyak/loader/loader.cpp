// SPDX-License-Identifier: Apache-2.0
#include "polyak/loader/loader.h"

#include <dlfcn.h>
#include <elf.h>
#include <fmt/ranges.h>
#include <link.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>

#include "polyak/config/problems.h"
#include "polyak/core/error.h"
#include "polyak/loader/plugin.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

std::string own_file() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&own_file), &info) == 0 || !info.dli_fname) return "";
  std::error_code error;
  return fs::canonical(info.dli_fname, error).string();
}

/// "0.1" for "0.1.7", which find_package(polyak) also compares.
std::string minor_version(const std::string& version) {
  return version.substr(0, version.find('.', version.find('.') + 1));
}

void check_versions(const PluginInfo& plugin, const std::string& path) {
  if (plugin.api != kPluginApi) {
    fail<PluginError>(
        "{}: was built for plugin interface {}, but this is Polyak {} with interface {}; build the "
        "plugin again with the headers of this version",
        path, plugin.api, POLYAK_VERSION, kPluginApi);
  }
  if (minor_version(plugin.polyak_version) != minor_version(POLYAK_VERSION)) {
    fail<PluginError>(
        "{}: was built with Polyak {}, but this is Polyak {}; build the plugin again with the "
        "headers of this version",
        path, plugin.polyak_version, POLYAK_VERSION);
  }
  if (std::string(plugin.libtorch_version) != TORCH_VERSION) {
    fail<PluginError>(
        "{}: was built with LibTorch {}, but Polyak with {}; build both with the same LibTorch",
        path, plugin.libtorch_version, TORCH_VERSION);
  }
  if (std::string(plugin.cxx_abi) != POLYAK_CXX_ABI) {
    fail<PluginError>(
        "{}: was built by {} for {}, but Polyak by {} for {}; build the plugin again for Polyak's "
        "C++ library (the compiler may differ)",
        path, plugin.compiler, plugin.cxx_abi, POLYAK_COMPILER, POLYAK_CXX_ABI);
  }
}

/// The header of an ELF file with this machine's word size, as far as the file has one.
struct ElfFile {
  explicit ElfFile(const std::string& path) : file(path, std::ios::binary) {
    file.read(reinterpret_cast<char*>(&header), sizeof header);
    size = static_cast<size_t>(file.gcount());
  }
  bool is_elf() const {
    return size == sizeof header && std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0;
  }
  bool same_machine(const ElfFile& other) const {
    return header.e_machine == other.header.e_machine &&
           std::memcmp(header.e_ident, other.header.e_ident, EI_VERSION) == 0;  // width, byte order
  }
  int bits() const { return header.e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32; }
  /// The minimum length of the file for its segments that are mapped into memory.
  uint64_t mapped_length() {
    uint64_t length = 0;
    for (size_t i = 0; i < header.e_phnum; ++i) {
      ElfW(Phdr) segment;
      file.seekg(static_cast<std::streamoff>(header.e_phoff + i * header.e_phentsize));
      if (!file.read(reinterpret_cast<char*>(&segment), sizeof segment)) return UINT64_MAX;
      if (segment.p_type == PT_LOAD) length = std::max(length, segment.p_offset + segment.p_filesz);
    }
    return length;
  }

  std::ifstream file;
  ElfW(Ehdr) header{};
  size_t size = 0;
};

/// Explains files for which dlopen only says "file too short" or even "no such file". A truncated
/// library would end the process by a bus error.
void check_file(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) fail<PluginError>("{}: no such file", path);
  if (fs::is_directory(status)) {
    fail<PluginError>("{}: is a folder; use the path of the library (lib*.so) in it", path);
  }
  ElfFile file(path);
  if (file.size == 0) {
    fail<PluginError>("{}: is empty or cannot be read; build the plugin again", path);
  }
  if (!file.is_elf()) {
    fail<PluginError>("{}: is not a shared library; use the file that the linker created (lib*.so)",
                      path);
  }
  const ElfFile own(own_file());
  if (own.is_elf() && !file.same_machine(own)) {
    fail<PluginError>(
        "{}: was built for another processor (ELF machine {}, {} bits; this is machine {}, {} "
        "bits); build the plugin for this machine",
        path, file.header.e_machine, file.bits(), own.header.e_machine, own.bits());
  }
  if (file.mapped_length() > fs::file_size(path, error)) {
    fail<PluginError>("{}: is truncated, maybe by an incomplete copy; build the plugin again",
                      path);
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
    std::vector<fs::path> folders{fs::path(own_file()).parent_path()};
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
  if (name == "polyak_hooks") {
    fail<PluginError>(
        "the built-in hooks were not found; searched {}. They come with Polyak: install it again, "
        "or "
        "the package polyak-plugins where Polyak is split into packages",
        fmt::join(looked, ", "));
  }
  fail<PluginError>(
      "plugin '{}' was not found; searched {}. A path needs a slash, as in ./libmine.so; a bare "
      "name is searched in the folder of libpolyak.so and in POLYAK_PLUGIN_PATH",
      name, fmt::join(looked, ", "));
}

void load_plugin(const std::string& path, Catalog& catalog) {
  check_file(path);
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);

  struct Close {
    void operator()(void* handle) const { dlclose(handle); }
  };
  std::unique_ptr<void, Close> handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!handle) {
    const char* reason = dlerror();
    fail<PluginError>(
        "{}: cannot be loaded: {}; build it again with this Polyak and its LibTorch, and check "
        "with ldd that its libraries are found",
        path, reason ? reason : "unknown reason");
  }
  if (catalog.libraries().count(handle.get())) return;

  using InfoEntry = const PluginInfo* (*)();
  using RegisterEntry = void (*)(Catalog&);
  const auto info = reinterpret_cast<InfoEntry>(dlsym(handle.get(), "polyak_plugin_info"));
  const auto enter = reinterpret_cast<RegisterEntry>(dlsym(handle.get(), "polyak_plugin_register"));
  if (!info || !enter) {
    fail<PluginError>(
        "{}: is not a Polyak plugin: it has no {}; add POLYAK_PLUGIN(catalog) {{ ... }} to one of "
        "its files",
        path, info ? "polyak_plugin_register" : "polyak_plugin_info");
  }
  const PluginInfo* built = info();
  if (!built)
    fail<PluginError>("{}: polyak_plugin_info returned null; use POLYAK_PLUGIN(catalog)", path);
  check_versions(*built, path);

  // The plugin fills a separate catalog, and errors are copied into strings before the library is
  // closed: entries and exceptions of a refused plugin must not outlive its code.
  std::optional<std::string> refusal;
  {
    Catalog staging;
    try {
      enter(staging);
      catalog.absorb(staging);
    } catch (const std::exception& error) {
      refusal = first_line(error);
    } catch (...) {
      refusal = "an exception that is not a std::exception";
    }
  }
  if (refusal) {
    fail<PluginError>("{}: registration failed, so none of its components are available: {}", path,
                      *refusal);
  }
  catalog.libraries().insert(handle.release());
}

namespace {

/// The folder to which a path in the key `plugins` is relative.
std::string base_folder_of(const Node& plugin, const Node& config) {
  // Line 0: from the command line, where paths are relative to the config.
  const Place& place = plugin.place().line > 0 ? plugin.place() : config.place();
  const std::string folder = fs::path(place.file).parent_path().string();
  return folder.empty() ? "." : folder;
}

}  // namespace

void load_plugins(const Node& config, Catalog& catalog) {
  const Node* plugins = config.find("plugins");
  if (!plugins || plugins->is_null()) return;
  for (const Node& plugin :
       plugins->is_sequence() ? plugins->items() : std::vector<Node>{*plugins}) {
    try {
      load_plugin(find_plugin(plugin.as_string(), base_folder_of(plugin, config)), catalog);
    } catch (const PluginError& error) {
      std::string text = excerpt(plugin.place());
      if (!text.empty()) text.pop_back();  // the last newline
      fail<PluginError>("{}{}{}{}", plugin.prefix(), error.what(), text.empty() ? "" : "\n", text);
    }
  }
}

void make_plugin_paths_absolute(Node& config) {
  Node* plugins = config.find("plugins");
  if (!plugins || plugins->is_null()) return;
  const auto made_absolute = [&](const Node& plugin) {
    const std::string name = plugin.as_string();
    if (name.find('/') == std::string::npos) return plugin;
    Node path =
        fs::absolute(fs::path(base_folder_of(plugin, config)) / name).lexically_normal().string();
    path.set_place(plugin.place());
    path.set_path(plugin.path());
    return path;
  };
  if (!plugins->is_sequence()) {
    *plugins = made_absolute(*plugins);
    return;
  }
  for (Node& plugin : plugins->items()) plugin = made_absolute(plugin);
}

}  // namespace polyak
