// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>

#include "polyak/checkpoint/file.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

using std::chrono::steady_clock;

constexpr auto kWait = std::chrono::seconds(10);
constexpr auto kPause = std::chrono::milliseconds(100);

/// The name of this process in the lock's file.
std::string own_name() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  return fmt::format("host {}, process {}", host.data(), ::getpid());
}

std::string holder_of(int descriptor) {
  std::array<char, 512> text{};
  const ssize_t size = ::pread(descriptor, text.data(), text.size() - 1, 0);
  std::string holder(text.data(), size > 0 ? static_cast<size_t>(size) : 0);
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  return holder;
}

void warn(const std::string& path, int error) {
  log_warning("{}: cannot be locked: {}; nothing prevents a second run in this folder", path,
              std::strerror(error));
}

}  // namespace

RunLock::RunLock(const std::string& folder, const Node& place) {
  const std::string path = (std::filesystem::path(folder) / ".lock").string();
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    warn(path, errno);
    return;
  }
  const auto end = steady_clock::now() + kWait;
  bool told = false;
  while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) {
      warn(path, errno);
      return;
    }
    const std::string holder = holder_of(descriptor_);
    const bool own = holder == own_name();
    if (own || steady_clock::now() >= end) {
      ::close(descriptor_);
      descriptor_ = -1;
      place.fail(fmt::format(
          "another run uses {}{}; {}", folder,
          own              ? " in this process"
          : holder.empty() ? ""
                           : fmt::format(" ({})", holder),
          own ? "give each run its own work_dir" : "wait until it ends, or use another work_dir"));
    }
    if (!told) {
      log_info("{} is in use by another run ({}); waiting up to {} s for it to end", folder, holder,
               kWait.count());
    }
    told = true;
    std::this_thread::sleep_for(kPause);
  }
  remove_unfinished(folder);
  const std::string name = own_name() + "\n";
  const bool written =
      ::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, name.data(), name.size(), 0) >= 0;
  if (!written) log_warning("{}: cannot be written: {}", path, std::strerror(errno));
}

void RunLocks::add(const std::vector<std::string>& folders, const Node& place) {
  for (const std::string& folder : folders) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(folder, ignored)) continue;
    std::unique_ptr<RunLock>& lock =
        locks_[std::filesystem::weakly_canonical(folder, ignored).string()];
    if (!lock) lock = std::make_unique<RunLock>(folder, place);
  }
}

RunLock::~RunLock() {
  if (descriptor_ < 0) return;
  // Another run that finds the lock free must not read this process's name in it.
  static_cast<void>(::ftruncate(descriptor_, 0));
  ::close(descriptor_);
}

}  // namespace polyak
