// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

// Internal to CheckpointHook: how it names what it records about its files.
namespace polyak {

// Keys of a hook's record in the run_info.
constexpr const char* kRecords = "checkpoint_hooks";
constexpr const char* kKept = "kept";          // regular files, oldest first
constexpr const char* kSurplus = "surplus";    // to remove once the file of this record is complete
constexpr const char* kOutdated = "outdated";  // best files to remove once a run can resume from it
constexpr const char* kStop = "stop";          // the file of a run that was stopped
constexpr const char* kOwed = "owed";          // number of a regular file that a signal prevented
constexpr const char* kBest = "best";          // {metric: {score, file}}

/// Whether two paths lead to the same file, which need not exist.
inline bool same_path(const std::string& a, const std::string& b) {
  std::error_code error;
  const auto first = std::filesystem::weakly_canonical(a, error);
  return !error && first == std::filesystem::weakly_canonical(b, error);
}

/// Where a checkpoint's weights are published, without the extension.
inline std::string published_stem(const std::string& path) {
  const std::filesystem::path file(path);
  return (file.parent_path() / "published" / file.stem()).string();
}

/// The file of an average that has one of its own, without the extension: epoch_3_slow; `ema` for
/// the one without a name.
inline std::string own_stem(const std::string& path, const std::string& average) {
  const std::filesystem::path file(path);
  const std::string name = file.stem().string() + "_" + (average.empty() ? "ema" : average);
  return (file.parent_path() / name).string();
}

}  // namespace polyak
