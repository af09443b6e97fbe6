// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/program.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <vector>

#include "polyak/core/error.h"
#include "polyak/version.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kLibTorch = "libtorch_cpu.so";

bool can_be_executed(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

template <class T>
T read_at(std::ifstream& file, std::streamoff offset) {
  T value{};
  file.seekg(offset);
  file.read(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

/// The dynamic linker that a program names.
std::string interpreter_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const auto header = read_at<ElfW(Ehdr)>(file, 0);
  if (std::memcmp(header.e_ident, "#!", 2) == 0) {
    fail<ConfigError>(
        "{}: is a script; attach to the program that it starts: in the script, write `polyak "
        "attach CONFIG --` before the program's name",
        path);
  }
  if (!file || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    fail<ConfigError>("{}: is not a program (not an ELF file)", path);
  }
  const auto own = read_at<ElfW(Ehdr)>(*std::make_unique<std::ifstream>("/proc/self/exe"), 0);
  if (header.e_ident[EI_CLASS] != own.e_ident[EI_CLASS] || header.e_machine != own.e_machine) {
    fail<ConfigError>("{}: is a program for another architecture", path);
  }
  for (int i = 0; i < header.e_phnum; ++i) {
    const auto part = read_at<ElfW(Phdr)>(
        file, static_cast<std::streamoff>(header.e_phoff + size_t(i) * header.e_phentsize));
    if (!file || part.p_type != PT_INTERP) continue;
    std::string name(part.p_filesz, '\0');
    file.seekg(static_cast<std::streamoff>(part.p_offset));
    file.read(name.data(), static_cast<std::streamsize>(name.size()));
    return name.c_str();
  }
  fail<ConfigError>(
      "{}: is statically linked, so no library can be preloaded; link LibTorch as a shared library",
      path);
}

/// The standard output of a command.
std::string output_of(std::vector<std::string> command) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) return "";
  std::vector<char*> arguments;
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe[1], STDOUT_FILENO);
  pid_t child = 0;
  const int failed =
      posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(pipe[1]);
  std::string text;
  std::array<char, 4096> buffer{};
  for (ssize_t size; (size = ::read(pipe[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(size));
  }
  ::close(pipe[0]);
  if (failed == 0) ::waitpid(child, nullptr, 0);
  return text;
}

/// The version of a LibTorch. It is loaded in a separate namespace to ask for it.
std::string libtorch_version(const std::string& path) {
  void* library = dlmopen(LM_ID_NEWLM, path.c_str(), RTLD_LAZY);
  if (!library) fail<ConfigError>("{}: cannot be loaded: {}", path, dlerror());
  using BuildOptions = const std::map<std::string, std::string>&();
  auto* options =
      reinterpret_cast<BuildOptions*>(dlsym(library, "_ZN6caffe215GetBuildOptionsB5cxx11Ev"));
  if (!options) return "of an unknown version";
  const auto version = options().find("TORCH_VERSION");
  return version == options().end() ? "of an unknown version" : version->second;
}

/// The LibTorch of this process.
std::string own_libtorch() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* found) {
        const std::string name = info->dlpi_name;
        if (fs::path(name).filename().string().rfind(kLibTorch, 0) != 0) return 0;
        *static_cast<std::string*>(found) = name;
        return 1;
      },
      &path);
  return path;
}

/// The names of the symbols that a program or library takes from others or offers to them, one
/// after the other; "" where the file has none.
std::string dynamic_names(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const auto header = read_at<ElfW(Ehdr)>(file, 0);
  const auto section = [&](size_t index) {
    return read_at<ElfW(Shdr)>(
        file, static_cast<std::streamoff>(header.e_shoff + index * header.e_shentsize));
  };
  for (size_t i = 0; file && i < header.e_shnum; ++i) {
    const auto symbols = section(i);
    if (symbols.sh_type != SHT_DYNSYM) continue;
    const auto names = section(symbols.sh_link);
    if (!file || names.sh_size > fs::file_size(path)) return "";
    std::string text(names.sh_size, '\0');
    file.seekg(static_cast<std::streamoff>(names.sh_offset));
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    return text;
  }
  return "";
}

/// A library that the dynamic linker would load.
struct Library {
  std::string asked;  // the name by which the program links to it
  std::string found;  // its path, or "not found"
};

/// The dynamic linker lists the libraries that it would load, and starts nothing.
std::vector<Library> libraries_of(const std::string& path, const std::string& interpreter) {
  std::vector<Library> libraries;
  std::istringstream lines(output_of({interpreter, "--list", path}));
  for (std::string line; std::getline(lines, line);) {
    const size_t name = line.find_first_not_of(" \t");
    if (name == std::string::npos) continue;
    const size_t arrow = line.find("=> ");
    Library library;
    library.asked = line.substr(name, line.find(' ', name) - name);
    library.found = arrow == std::string::npos ? library.asked : line.substr(arrow + 3);
    library.found = library.found.substr(0, library.found.rfind(" ("));
    libraries.push_back(std::move(library));
  }
  return libraries;
}

/// Adds the optimizers that the files refer to.
void find_optimizers(const std::vector<std::string>& files, ProgramFacts& facts) {
  std::string names;
  for (const std::string& file : files) names += dynamic_names(file);
  // Names within mangled ones, which begin with their lengths.
  for (const char* optimizer : {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "LBFGS"}) {
    const std::string part = fmt::format("5torch5optim{}{}", std::strlen(optimizer), optimizer);
    if (names.find(part) != std::string::npos) facts.optimizers.emplace_back(optimizer);
  }
  // A derived class refers to its base's type.
  facts.own_optimizer = names.find("_ZTIN5torch5optim9OptimizerE") != std::string::npos;
}

}  // namespace

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    std::error_code error;
    if (!fs::exists(name, error)) fail<ConfigError>("{}: no such program", name);
    if (!can_be_executed(name)) {
      fail<ConfigError>("{}: is not executable; use `chmod +x`", name);
    }
    return name;
  }
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path file = fs::path(folder.empty() ? "." : folder) / name;
    if (can_be_executed(file)) return file.string();
  }
  fail<ConfigError>("{}: not found in PATH; use ./{} for a program in the current folder", name,
                    name);
}

ProgramFacts check_program(const std::string& path) {
  const std::string interpreter = interpreter_of(path);
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && (status.st_mode & (S_ISUID | S_ISGID)) != 0) {
    fail<ConfigError>(
        "{}: is setuid or setgid, so Linux ignores preloaded libraries; remove the bit", path);
  }
  const std::vector<Library> libraries = libraries_of(path, interpreter);
  const auto torch = std::find_if(libraries.begin(), libraries.end(), [](const Library& library) {
    return library.asked.compare(0, kLibTorch.size(), kLibTorch) == 0;
  });
  if (torch == libraries.end()) {
    fail<ConfigError>(
        "{}: does not load LibTorch ({}) at startup; it must be linked to LibTorch {} as a shared "
        "library",
        path, kLibTorch, TORCH_VERSION);
  }
  const std::string& found = torch->found;
  if (found == "not found") {
    fail<ConfigError>("{}: needs {}, which is not found; set LD_LIBRARY_PATH to its folder", path,
                      kLibTorch);
  }
  std::error_code error;
  const std::string own = own_libtorch();
  const bool same_file = fs::equivalent(found, own, error);
  const std::string version = same_file ? TORCH_VERSION : libtorch_version(found);
  if (version != TORCH_VERSION) {
    fail<ConfigError>(
        "{}: uses LibTorch {} ({}), but this Polyak was built with {}; build Polyak with the "
        "program's LibTorch: -DPOLYAK_TORCH=FOLDER",
        path, version, found, TORCH_VERSION);
  }
  // The dynamic linker identifies libraries by this name, and would load both.
  const std::string wanted = fs::path(own).filename().string();
  if (!same_file && torch->asked != wanted) {
    fail<ConfigError>(
        "{}: loads LibTorch {} as {}, but this Polyak as {}; build both with the same LibTorch",
        path, version, torch->asked, wanted);
  }
  ProgramFacts facts;
  facts.libtorch = found;
  std::vector<std::string> files = {path};
  for (const Library& library : libraries) {  // beside LibTorch there are its own and the system's
    if (fs::path(library.found).parent_path() == fs::path(found).parent_path()) continue;
    if (fs::is_regular_file(library.found, error)) files.push_back(library.found);
  }
  find_optimizers(files, facts);
  return facts;
}

}  // namespace polyak
