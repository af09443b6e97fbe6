// SPDX-License-Identifier: Apache-2.0
#include <optional>  // LibTorch 2.11's inline_container.h uses it without including it

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <caffe2/serialize/inline_container.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <system_error>
#include <unordered_map>

#include "polyak/checkpoint/foreign_file.h"
#include "polyak/checkpoint/legacy_pth_reader.h"
#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pickle_reader.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/checkpoint/safetensors_format.h"
#include "polyak/checkpoint/zip_directory.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

using caffe2::serialize::PyTorchStreamReader;

/// The first bytes of a file that can be read.
std::string checked_head(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) {
    fail<CheckpointError>("cannot be read: {}", std::generic_category().message(errno));
  }
  if (S_ISDIR(status.st_mode)) {
    if (::access((path + "/.metadata").c_str(), F_OK) == 0) {
      fail<CheckpointError>(
          "is a folder of torch.distributed.checkpoint; make one file of it with Python's "
          "torch.distributed.checkpoint.format_utils.dcp_to_torch_save");
    }
    fail<CheckpointError>("is a folder, not a checkpoint");
  }
  if (!S_ISREG(status.st_mode)) fail<CheckpointError>("is not a regular file");
  if (status.st_size == 0) fail<DamagedCheckpointError>("is empty");
  errno = 0;
  std::string head = head_of(path);
  if (head.empty()) {
    fail<CheckpointError>("cannot be read: {}", std::generic_category().message(errno));
  }
  return head;
}

/// Distinguishes, before LibTorch opens the file, errors that its zip reader would not explain.
void check_is_zip(const std::string& head) {
  if (head.compare(0, 4, "PK\x03\x04") == 0) return;
  if (safetensors::is_start(head)) {
    fail<CheckpointError>("is a .safetensors file; give it a name that ends so");
  }
  std::string sentence = foreign_format(head);
  if (sentence.empty()) sentence = foreign_text(head);
  if (!sentence.empty()) fail<CheckpointError>("{}", sentence);
  fail<DamagedCheckpointError>(
      "is not a checkpoint: a .pth file is a zip archive, and this file is not");
}

void check_is_checkpoint(const ZipDirectory& directory) {
  if (directory.find("archive_format")) {
    fail<CheckpointError>(
        "is a program of torch.export, not a checkpoint; in Python, save the state_dict of "
        "torch.export.load(path) with torch.save");
  }
  if (directory.find(".data/extern_modules")) {
    fail<CheckpointError>(
        "is an archive of torch.package, not a checkpoint; in Python, save the state_dict of its "
        "model with torch.save");
  }
  if (!directory.find("data.pkl")) {
    fail<CheckpointError>("is a zip archive without data.pkl, not a checkpoint");
  }
  if (!directory.find("version") && !directory.find(".data/version")) {
    fail<CheckpointError>(
        "is a zip archive without a record 'version', not a checkpoint; torch.save writes one");
  }
}

/// The records of an archive. Each is verified by its checksum.
class Archive {
 public:
  explicit Archive(const std::string& path) : directory_(path), reader_(checked(path)) {
    read(directory_.find("version") ? "version" : ".data/version");
    if (!directory_.has_checksums()) {
      log_info("{}: has no checksums (CRC32), so damage to it cannot be detected", path);
    }
  }

  bool has(const std::string& record) const { return directory_.find(record) != nullptr; }

  std::pair<at::DataPtr, size_t> read(const std::string& record) {
    auto [data, size] = reader_.getRecord(record);
    if (directory_.has_checksums()) {
      const uint32_t stated = directory_.find(record)->crc;
      const auto found =
          static_cast<uint32_t>(crc32_z(0, static_cast<const unsigned char*>(data.get()), size));
      if (found != stated) {
        fail<DamagedCheckpointError>(
            "is damaged: the checksum (CRC32) of its record '{}' is {:08x}, expected {:08x}",
            pickle::printable(record), found, stated);
      }
    }
    return {std::move(data), size};
  }

  std::string read_text(const std::string& record) {
    const auto [data, size] = read(record);
    return std::string(static_cast<const char*>(data.get()), size);
  }

 private:
  const std::string& checked(const std::string& path) const {
    check_is_checkpoint(directory_);
    return path;
  }

  ZipDirectory directory_;
  PyTorchStreamReader reader_;
};

Value read_file(const std::string& path) {
  const std::string head = checked_head(path);
  if (is_legacy_pth(head)) return read_legacy_pth(path);
  check_is_zip(head);
  Archive archive(path);
  if (archive.has("byteorder") && archive.read_text("byteorder") != "little") {
    fail<CheckpointError>(
        "was written on a big-endian machine, which this reader does not support");
  }
  std::unordered_map<std::string, c10::Storage> storages;
  const auto load = [&](const std::string& key, size_t bytes, size_t /*element_size*/) {
    auto found = storages.find(key);
    if (found == storages.end()) {
      const std::string record = "data/" + key;
      if (!archive.has(record)) {
        fail<CheckpointError>("the archive has no record '{}'", pickle::printable(record));
      }
      auto [data, size] = archive.read(record);
      c10::Storage storage(c10::Storage::use_byte_size_t(), size, std::move(data),
                           c10::GetCPUAllocator(), /*resizable=*/true);
      found = storages.emplace(key, std::move(storage)).first;
    }
    if (found->second.nbytes() != bytes) {
      fail<CheckpointError>("'data/{}' has {} bytes, expected {}", pickle::printable(key),
                            found->second.nbytes(), bytes);
    }
    return found->second;
  };
  const std::string object = archive.read_text("data.pkl");
  pickle::Input input(object);
  return pickle::read(input, load);
}

}  // namespace

DamagedCheckpointError::~DamagedCheckpointError() = default;

Value read_pth(const std::string& path) {
  try {
    return read_file(path);
  } catch (const DamagedCheckpointError& error) {
    fail<DamagedCheckpointError>("{}: {}", path, error.what());
  } catch (const CheckpointError& error) {
    fail<CheckpointError>("{}: {}", path, error.what());
  } catch (const std::exception& error) {
    // Errors of LibTorch's zip reader and allocator for truncated or damaged files.
    fail<DamagedCheckpointError>("{}: cannot be read and may be truncated or damaged: {}", path,
                                 first_line(error));
  }
}

}  // namespace polyak
