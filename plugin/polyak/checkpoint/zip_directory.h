// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "polyak/checkpoint/pth.h"

// Internal to checkpoint: what a zip archive says of its records. LibTorch's reader looks neither
// at checksums nor at names that stand twice.
namespace polyak {

struct ZipRecord {
  uint32_t crc = 0;
  uint64_t size = 0;
};

/// The records of an archive as PyTorch lays it out, all in one folder, by their names within it.
class ZipDirectory {
 public:
  /// @throws DamagedCheckpointError when the archive's directory is not whole
  explicit ZipDirectory(const std::string& path);

  const ZipRecord* find(const std::string& name) const;
  /// Whether any record has a checksum; torch.serialization.set_crc32_options(False) leaves them 0.
  bool has_checksums() const { return has_checksums_; }

 private:
  std::unordered_map<std::string, ZipRecord> records_;
  bool has_checksums_ = false;
};

}  // namespace polyak
