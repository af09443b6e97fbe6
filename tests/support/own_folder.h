#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace polyak::test {

/// A folder for files of this process alone, since tests run beside each other; it goes with it.
inline const std::string& own_folder() {
  struct Folder {
    Folder() {
      if (!::mkdtemp(path.data())) throw std::runtime_error("no folder for a test's files");
    }
    ~Folder() {
      std::error_code ignored;
      if (owner == ::getpid()) std::filesystem::remove_all(path, ignored);  // not a forked child
    }
    std::string path = (std::filesystem::temp_directory_path() / "polyak_test_XXXXXX").string();
    pid_t owner = ::getpid();
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace polyak::test
