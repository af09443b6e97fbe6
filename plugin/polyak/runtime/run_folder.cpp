// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/run_folder.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>

namespace polyak {
namespace fs = std::filesystem;

std::string local_time(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  char text[32];
  return std::string(text, std::strftime(text, sizeof text, format, &parts));
}

std::string new_timestamp(const std::string& work_dir) {
  // Two runs that start in the same second must not share their files.
  const std::string now = local_time("%Y%m%d_%H%M%S");
  std::string timestamp = now;
  for (int i = 1; fs::exists(fs::path(work_dir) / timestamp); ++i) {
    timestamp = fmt::format("{}_{}", now, i);
  }
  return timestamp;
}

std::string unwritable_reason(const std::string& name) {
  fs::path folder = fs::absolute(name);
  std::error_code ignored;
  while (!fs::exists(folder, ignored) && folder.has_relative_path()) folder = folder.parent_path();
  // Permissions alone say little: a file system may be read-only, and root may do anything.
  std::string probe = (folder / ".polyak_XXXXXX").string();
  const int file = mkstemp(probe.data());
  if (file >= 0) {
    close(file);
    unlink(probe.c_str());
    return "";
  }
  return fmt::format("{}: {}", folder.string(), std::strerror(errno));
}

void check_writable(const Node& config, const std::string& work_dir) {
  const std::string reason = unwritable_reason(work_dir);
  if (reason.empty()) return;
  const Node* node = config.find("work_dir");
  (node ? *node : config).fail(fmt::format("{} cannot be written: {}", work_dir, reason));
}

}  // namespace polyak
