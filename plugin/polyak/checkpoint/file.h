// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "polyak/core/export.h"

namespace polyak {

/// Calls `write` with the name of a new, empty file in the folder of `path`, flushes that file to
/// disk and renames it to `path`. An existing file stays intact until the new one replaces it. If
/// anything fails, the new file is removed and the error is rethrown. Permissions follow the umask.
/// @throws CheckpointError naming `path` and the system's reason.
void replace_file(const std::string& path, const std::function<void(const std::string&)>& write);

/// Replaces a file by a text in the same way.
POLYAK_API void replace_text_file(const std::string& path, const std::string& text);

/// Removes temporary files that replace_file() left in a folder when its process was killed. No
/// other process may write to the folder. Never throws.
void remove_unfinished(const std::string& folder);

/// A new file that bytes are written to. Only check() throws, so that code whose writer must not
/// throw can use it: LibTorch's zip writer would end the process.
class FileSink {
 public:
  /// @param name the file that is written
  /// @param path the file name in messages, which the user knows
  /// @throws CheckpointError if `name` cannot be opened.
  FileSink(const std::string& name, std::string path);
  ~FileSink();
  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;

  /// Appends bytes. After a failed write, all later ones are ignored.
  void write(const void* data, size_t size) noexcept;

  /// @throws CheckpointError if a write failed.
  void check() const;

 private:
  void begin_flush() noexcept;

  std::string path_;
  int descriptor_;
  int error_ = 0;
  size_t written_ = 0;  // bytes
  size_t begun_ = 0;    // of these, those that the system was asked to write to the disk
};

}  // namespace polyak
