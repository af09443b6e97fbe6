// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/zip_directory.h"

#include <algorithm>
#include <fstream>
#include <string_view>

#include "polyak/checkpoint/pickle_format.h"

namespace polyak {
namespace {

constexpr std::string_view kEndSign = "PK\x05\x06";
constexpr size_t kEndSize = 22;
constexpr std::string_view kLocatorSign = "PK\x06\x07";  // of the 64-bit end record
constexpr size_t kLocatorSize = 20;
constexpr std::string_view kEnd64Sign = "PK\x06\x06";
constexpr size_t kEnd64Size = 56;
constexpr std::string_view kEntrySign = "PK\x01\x02";
constexpr size_t kEntrySize = 46;
constexpr uint16_t kExtra64 = 1;  // the extra field for values of more than 32 bits
constexpr uint32_t kIn64 = 0xffffffff;
constexpr uint64_t kMostDeflated = 1032;  // the largest ratio of deflate

[[noreturn]] void fail_directory(const char* reason) {
  fail<DamagedCheckpointError>("is truncated or damaged: {}", reason);
}

/// A part of the file, with access to little-endian numbers.
class Bytes {
 public:
  explicit Bytes(std::string text) : text_(std::move(text)) {}

  size_t size() const { return text_.size(); }
  bool starts(std::string_view sign, size_t at) const {
    return text_.compare(at, sign.size(), sign) == 0;
  }
  template <class T>
  T number(size_t at) const {
    if (at + sizeof(T) > text_.size()) fail_directory("its zip directory is truncated");
    uint64_t value = 0;
    for (size_t i = sizeof(T); i-- > 0;) {
      value = value << 8 | static_cast<unsigned char>(text_[at + i]);
    }
    return static_cast<T>(value);
  }
  std::string text(size_t at, size_t length) const {
    if (at + length > text_.size()) fail_directory("its zip directory is truncated");
    return text_.substr(at, length);
  }
  size_t find_last(std::string_view sign) const { return text_.rfind(sign); }

 private:
  std::string text_;
};

class File {
 public:
  explicit File(const std::string& path) : stream_(path, std::ios::binary | std::ios::ate) {
    size_ = stream_ ? static_cast<uint64_t>(stream_.tellg()) : 0;
  }
  uint64_t size() const { return size_; }
  Bytes read(uint64_t offset, uint64_t length) {
    if (offset > size_ || length > size_ - offset) {
      fail_directory("its zip directory is beyond the end of the file");
    }
    std::string text(length, '\0');
    stream_.seekg(static_cast<std::streamoff>(offset));
    stream_.read(text.data(), static_cast<std::streamsize>(length));
    if (!stream_) fail_directory("its zip directory cannot be read");
    return Bytes(std::move(text));
  }

 private:
  std::ifstream stream_;
  uint64_t size_ = 0;
};

struct DirectoryExtent {
  uint64_t offset;
  uint64_t length;
  uint64_t entries;
};

DirectoryExtent find_directory(File& file) {
  constexpr uint64_t kLongestComment = 0xffff;
  const uint64_t tail_size = std::min(file.size(), kLocatorSize + kEndSize + kLongestComment);
  const uint64_t tail_offset = file.size() - tail_size;
  const Bytes tail = file.read(tail_offset, tail_size);
  const size_t end = tail.find_last(kEndSign);
  if (end == std::string::npos || end + kEndSize > tail.size()) {
    fail_directory("it has no zip end record");
  }
  if (end >= kLocatorSize && tail.starts(kLocatorSign, end - kLocatorSize)) {
    const Bytes end64 = file.read(tail.number<uint64_t>(end - kLocatorSize + 8), kEnd64Size);
    if (!end64.starts(kEnd64Sign, 0)) fail_directory("its zip64 end record is missing");
    return {end64.number<uint64_t>(48), end64.number<uint64_t>(40), end64.number<uint64_t>(32)};
  }
  return {tail.number<uint32_t>(end + 16), tail.number<uint32_t>(end + 12),
          tail.number<uint16_t>(end + 10)};
}

/// Reads the entry at `at` and checks its sizes.
ZipRecord read_entry(const Bytes& directory, size_t at, uint64_t file_size) {
  uint64_t stored = directory.number<uint32_t>(at + 20);
  ZipRecord record{directory.number<uint32_t>(at + 16), directory.number<uint32_t>(at + 24)};
  const size_t extra = at + kEntrySize + directory.number<uint16_t>(at + 28);
  const size_t extra_end = extra + directory.number<uint16_t>(at + 30);
  for (size_t field = extra; field + 4 <= extra_end;) {
    const auto id = directory.number<uint16_t>(field);
    size_t value = field + 4;
    field = value + directory.number<uint16_t>(field + 2);
    if (id != kExtra64) continue;
    for (uint64_t* number : {&record.size, &stored}) {
      if (*number != kIn64) continue;
      *number = directory.number<uint64_t>(value);
      value += sizeof(uint64_t);
    }
  }
  const bool plain = directory.number<uint16_t>(at + 10) == 0;
  if (stored > file_size || record.size > (plain ? stored : kMostDeflated * stored)) {
    fail_directory("a record in its zip directory is larger than the file");
  }
  return record;
}

}  // namespace

ZipDirectory::ZipDirectory(const std::string& path) {
  File file(path);
  const DirectoryExtent extent = find_directory(file);
  const Bytes directory = file.read(extent.offset, extent.length);
  std::string folder;
  size_t at = 0;
  for (uint64_t i = 0; i < extent.entries; ++i) {
    if (at + kEntrySize > directory.size() || !directory.starts(kEntrySign, at)) {
      fail_directory("its zip directory has fewer records than it states");
    }
    const auto name_size = directory.number<uint16_t>(at + 28);
    const std::string name = directory.text(at + kEntrySize, name_size);
    const ZipRecord record = read_entry(directory, at, file.size());
    if (record.crc != 0) has_checksums_ = true;
    at += kEntrySize + name_size + directory.number<uint16_t>(at + 30) +
          directory.number<uint16_t>(at + 32);
    if (i == 0) folder = name.substr(0, name.find('/') + 1);
    if (folder.empty() || name.compare(0, folder.size(), folder) != 0) continue;
    const std::string within = name.substr(folder.size());
    if (!records_.emplace(within, record).second) {
      fail<DamagedCheckpointError>("is damaged: it has two records '{}'",
                                   pickle::printable(within));
    }
  }
}

const ZipRecord* ZipDirectory::find(const std::string& name) const {
  const auto found = records_.find(name);
  return found == records_.end() ? nullptr : &found->second;
}

}  // namespace polyak
