// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/hooks/checkpoint_hook.h"

// Internal to CheckpointHook: what it records about its files.
namespace polyak {

// Keys of a hook's record in the run_info.
constexpr const char* kRecords = "checkpoint_hooks";
constexpr const char* kKept = "kept";          // regular files, oldest first
constexpr const char* kSurplus = "surplus";    // to remove once the file of this record is complete
constexpr const char* kOutdated = "outdated";  // best files to remove once a run can resume from it
constexpr const char* kStop = "stop";          // the file of a run that was stopped
constexpr const char* kOwed = "owed";          // number of a regular file that a signal prevented
constexpr const char* kBest = "best";          // {metric: {score, file}}

/// The hooks of this kind in the order of their calls; only `self` if the host has no list.
std::vector<CheckpointHook*> peers_of(Runner& runner, CheckpointHook* self);

/// Whether two paths lead to the same file, which need not exist.
bool same_path(const std::string& a, const std::string& b);

/// Where a checkpoint's weights are published, without the extension.
std::string published_stem(const std::string& path);

}  // namespace polyak
