// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <regex>
#include <system_error>

#include "polyak/core/error.h"

namespace polyak {
namespace fs = std::filesystem;
namespace {

fs::path folder_of(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  return folder.empty() ? fs::path(".") : folder;
}

std::string remedy(const std::string& path, int error) {
  const std::string folder = folder_of(path).string();
  switch (error) {
    case ENOENT:
      return fmt::format("; create the folder '{}' first", folder);
    case ENOTDIR:
      return fmt::format("; '{}' is not a folder", folder);
    case EISDIR:
      return "; it is a folder; use the name of a file";
    case EACCES:
    case EPERM:
    case EROFS:
      return fmt::format("; the folder '{}' is not writable for this user", folder);
    case ENOSPC:
    case EDQUOT:
      return fmt::format("; free some space for '{}'", folder);
    case EFBIG:
      return "; the file size limit of the process ('ulimit -f') or of the file system is reached";
    default:
      return "";
  }
}

[[noreturn]] void fail_to_write(const std::string& path, int error) {
  fail<CheckpointError>("{}: cannot be written: {}{}", path, std::generic_category().message(error),
                        remedy(path, error));
}

/// Creates an empty file in the folder of `path`, whose name does not match patterns such as *.pth.
/// Another process may have the same process id (shared folders, containers), so if a name exists,
/// the next one is tried.
std::string create_beside(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  const fs::path target(path);
  while (true) {
    std::string name =
        (target.parent_path() /
         fmt::format(".{}.tmp-{}-{}", target.filename().string(), ::getpid(), counter++))
            .string();
    const int descriptor = ::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor >= 0) {
      ::close(descriptor);
      return name;
    }
    if (errno != EEXIST) fail_to_write(path, errno);
  }
}

void flush_to_disk(const std::string& name, const std::string& path) {
  const int descriptor = ::open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_to_write(path, errno);
  const int error = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // Some network file systems cannot flush a folder and return EINVAL.
  if (error != 0 && error != EINVAL) fail_to_write(path, error);
}

}  // namespace

void replace_file(const std::string& path, const std::function<void(const std::string&)>& write) {
  // rename() would only fail after everything is written.
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) fail_to_write(path, EISDIR);
  const std::string name = create_beside(path);
  try {
    write(name);
    flush_to_disk(name, path);
    if (::rename(name.c_str(), path.c_str()) != 0) fail_to_write(path, errno);
  } catch (...) {
    ::unlink(name.c_str());
    throw;
  }
  flush_to_disk(folder_of(path).string(), path);
}

void replace_text_file(const std::string& path, const std::string& text) {
  replace_file(path, [&](const std::string& name) {
    FileSink sink(name, path);
    sink.write(text.data(), text.size());
    sink.check();
  });
}

void remove_unfinished(const std::string& folder) {
  static const std::regex kName(R"(\..+\.tmp-\d+-\d+)");  // of create_beside
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (!std::regex_match(entry.path().filename().string(), kName)) continue;
    fs::remove(entry.path(), ignored);
  }
}

FileSink::FileSink(const std::string& name, std::string path)
    : path_(std::move(path)),
      descriptor_(::open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail_to_write(path_, errno);
}

FileSink::~FileSink() {
  ::close(descriptor_);
}

void FileSink::write(const void* data, size_t size) noexcept {
  constexpr size_t kPiece = size_t{16} << 20;  // so that the disk can begin
  const char* next = static_cast<const char*>(data);
  while (size > 0 && error_ == 0) {
    const ssize_t written = ::write(descriptor_, next, std::min(size, kPiece));
    if (written >= 0) {
      next += written;
      size -= static_cast<size_t>(written);
      written_ += static_cast<size_t>(written);
      begin_flush();
    } else if (errno != EINTR) {
      error_ = errno;
    }
  }
}

/// The disk works while the next bytes are made: else it would only begin when the file is flushed.
void FileSink::begin_flush() noexcept {
  constexpr size_t kChunk = size_t{16} << 20;
  if (written_ - begun_ < kChunk) return;
#ifdef SYNC_FILE_RANGE_WRITE
  // A hint: whether it worked shows when the file is flushed.
  static_cast<void>(::sync_file_range(descriptor_, static_cast<off_t>(begun_),
                                      static_cast<off_t>(written_ - begun_),
                                      SYNC_FILE_RANGE_WRITE));
#endif
  begun_ = written_;
}

void FileSink::check() const {
  if (error_ != 0) fail_to_write(path_, error_);
}

}  // namespace polyak
