// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <stdexcept>
#include <string>

namespace polyak::test {

/// A new, empty folder that goes with this object, since tests run beside each other.
class OwnFolder {
 public:
  OwnFolder() {
    if (!::mkdtemp(path_.data())) throw std::runtime_error("no folder for a test's files");
  }
  ~OwnFolder() {
    std::error_code ignored;
    if (owner_ == ::getpid()) std::filesystem::remove_all(path_, ignored);  // not a forked child
  }
  OwnFolder(const OwnFolder&) = delete;
  OwnFolder& operator=(const OwnFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  // mkdtemp puts letters in place of the X.
  std::string path_ = (std::filesystem::temp_directory_path() / "polyak_test_XXXXXX").string();
  pid_t owner_ = ::getpid();
};

/// One for files of this process.
inline const std::string& own_folder() {
  static const OwnFolder folder;
  return folder.path();
}

/// Copies a folder to one beside it, in place of an earlier copy. @return the copy's path
inline std::string copy_of(const std::string& folder) {
  const std::string copy = folder + "_copy";
  std::filesystem::remove_all(copy);
  std::filesystem::copy(folder, copy, std::filesystem::copy_options::recursive);
  return copy;
}

}  // namespace polyak::test
