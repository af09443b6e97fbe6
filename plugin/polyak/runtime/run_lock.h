// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "polyak/config/node.h"
#include "polyak/core/export.h"

namespace polyak {

/// Reserves a folder for one run at a time, with flock on the file `.lock` in it: the kernel
/// releases it however the process ends. The host and process number in the file are for messages
/// only, and the file stays. Removes what a killed run left half written there. On a file system
/// without locks, it warns and the run continues without one.
class POLYAK_API RunLock {
 public:
  /// Waits up to 10 s for a run that is ending, unless this process holds the lock itself.
  /// @param folder must exist
  /// @param place of the key that names the folder, for the error
  /// @throws ConfigError if another run keeps it
  RunLock(const std::string& folder, const Node& place);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

/// Locks the folders of a run that are not locked yet: work_dir and every out_dir, each once.
class POLYAK_API RunLocks {
 public:
  /// @throws ConfigError as RunLock does
  void add(const std::vector<std::string>& folders, const Node& place);
  void release() { locks_.clear(); }

 private:
  std::map<std::string, std::unique_ptr<RunLock>> locks_;  // by the folder's canonical path
};

}  // namespace polyak
