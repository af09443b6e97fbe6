// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "polyak/checkpoint/pth.h"

// Internal to checkpoint: the directory of a zip archive. LibTorch's reader checks neither
// checksums nor duplicate names.
namespace polyak {

struct ZipRecord {
  uint32_t crc = 0;
  uint64_t size = 0;
};

/// The records of an archive in PyTorch's layout: all in one folder, by their names in that folder.
class ZipDirectory {
 public:
  /// @throws DamagedCheckpointError if the archive's directory is damaged
  explicit ZipDirectory(const std::string& path);

  /// nullptr if there is no such record.
  const ZipRecord* find(const std::string& name) const;
  /// Whether any record has a checksum; torch.serialization.set_crc32_options(False) leaves them 0.
  bool has_checksums() const { return has_checksums_; }

 private:
  std::unordered_map<std::string, ZipRecord> records_;
  bool has_checksums_ = false;
};

}  // namespace polyak
