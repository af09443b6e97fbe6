// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// Calls `write` with the name of a new, empty file beside `path`, flushes that file to disk and
/// renames it to `path`. When anything fails the new file is removed, `path` stays as it was, and
/// the error goes on. The file gets the permissions that the umask leaves.
/// @throws CheckpointError naming `path` and the reason of the system.
POLYAK_API void replace_file(const std::string& path,
                             const std::function<void(const std::string&)>& write);

/// The same for a text.
POLYAK_API void replace_text_file(const std::string& path, const std::string& text);

/// Removes what replace_file left in a folder when its process was killed. For a folder that no
/// other process writes to. Never throws.
POLYAK_API void remove_unfinished(const std::string& folder);

/// A new file that takes bytes until the disk refuses them. It throws only in check(), so that code
/// which cannot bear an exception from its writer (LibTorch's zip writer ends the process) may use
/// it.
class POLYAK_API FileSink {
 public:
  /// @throws CheckpointError when `name` cannot be opened; messages speak of `path`, which a user
  /// knows.
  FileSink(const std::string& name, std::string path);
  ~FileSink();
  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;

  /// Once a write has failed, everything after it is dropped.
  void write(const void* data, size_t size) noexcept;

  /// @throws CheckpointError when a write failed.
  void check() const;

 private:
  std::string path_;
  int descriptor_;
  int error_ = 0;
};

}  // namespace polyak
