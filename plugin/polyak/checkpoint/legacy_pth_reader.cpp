// SPDX-License-Identifier: Apache-2.0
#include "polyak/checkpoint/legacy_pth_reader.h"

#include <c10/core/CPUAllocator.h>
#include <c10/core/Storage.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <system_error>

#include "polyak/checkpoint/pickle_format.h"
#include "polyak/checkpoint/pickle_nodes.h"
#include "polyak/checkpoint/pickle_reader.h"
#include "polyak/checkpoint/pth.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

// The file is: a number that tells the format, of 80 bits; the number of its version; a dict about
// the machine; the object; the keys of the storages, a list. All of these are pickles. Then, for
// each key in this order, the number of elements in 64 bits and the elements.

using namespace std::string_view_literals;

/// The first pickle, after its protocol and, from protocol 4 on, the frame around it.
constexpr std::string_view kMagic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."sv;
constexpr std::string_view kFrame = "\x95\x0d\0\0\0\0\0\0\0"sv;
constexpr int64_t kVersion = 1001;

/// Whether the file begins as torch.save begins one.
bool read_magic(pickle::Input& input) {
  const auto protocol = static_cast<unsigned char>(input.take(2)[1]);
  for (const std::string_view part : {protocol < 4 ? ""sv : kFrame, kMagic}) {
    const auto count = std::min<uint64_t>(part.size(), input.left());
    if (input.take(count) != part.substr(0, count)) return false;
    if (count < part.size()) throw pickle::Damage{"it ends unexpectedly"};
  }
  return true;
}

/// The storages of a file. They come after the object that uses them, so each is created empty when
/// the object needs it, and filled later.
class Storages {
 public:
  explicit Storages(pickle::Input& input) : input_(input) {}

  c10::Storage get(const std::string& key, size_t bytes, size_t element_size) {
    auto found = storages_.find(key);
    if (found == storages_.end()) {
      if (bytes > input_.left() - reserved_) {
        fail<DamagedCheckpointError>(
            "is truncated or damaged: its tensors need {} bytes, and {} are left", bytes,
            input_.left() - reserved_);
      }
      reserved_ += bytes;
      at::DataPtr data = c10::GetCPUAllocator()->allocate(bytes);
      void* const target = data.get();
      c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, std::move(data),
                           c10::GetCPUAllocator(), /*resizable=*/true);
      found = storages_.emplace(key, Entry{std::move(storage), target, element_size}).first;
    }
    if (found->second.storage.nbytes() != bytes) {
      fail<DamagedCheckpointError>(
          "is damaged: its storage '{}' has {} bytes in one place and {} "
          "in another",
          pickle::printable(key), found->second.storage.nbytes(), bytes);
    }
    return found->second.storage;
  }

  void fill(const std::vector<Value>& keys) {
    for (const Value& value : keys) {
      const std::string& key = value.as_string();
      const auto found = storages_.find(key);
      if (found == storages_.end() || found->second.filled) {
        fail<DamagedCheckpointError>(
            "is damaged: nothing uses its storage '{}', or it is there "
            "twice",
            pickle::printable(key));
      }
      fill(key, found->second);
    }
    for (const auto& [key, entry] : storages_) {
      if (!entry.filled) {
        fail<DamagedCheckpointError>("is damaged: its storage '{}' is missing",
                                     pickle::printable(key));
      }
    }
  }

 private:
  struct Entry {
    c10::Storage storage;
    void* target;
    size_t element_size;
    bool filled = false;
  };

  void fill(const std::string& key, Entry& entry) {
    int64_t elements = 0;
    input_.copy(&elements, sizeof(elements));
    const size_t expected = entry.storage.nbytes() / entry.element_size;
    if (elements < 0 || static_cast<size_t>(elements) != expected) {
      fail<DamagedCheckpointError>("is damaged: its storage '{}' has {} elements, expected {}",
                                   pickle::printable(key), elements, expected);
    }
    input_.copy(entry.target, entry.storage.nbytes());
    entry.filled = true;
  }

  pickle::Input& input_;
  size_t reserved_ = 0;
  std::map<std::string, Entry> storages_;
};

c10::Storage no_storage(const std::string& key, size_t /*bytes*/, size_t /*element_size*/) {
  fail<DamagedCheckpointError>("is damaged: a storage '{}' where none can be",
                               pickle::printable(key));
}

/// Whether the machine that wrote the file was little-endian.
bool read_machine(pickle::Input& input) {
  const int64_t version = pickle::read(input, no_storage).as_int();
  if (version != kVersion) {
    fail<DamagedCheckpointError>("is damaged: its format has the version {}, expected {}", version,
                                 kVersion);
  }
  return pickle::read(input, no_storage).at("little_endian").as_bool();
}

Value read_object(pickle::Input& input) {
  Storages storages(input);
  Value value = pickle::read(input, [&](const std::string& key, size_t bytes, size_t element_size) {
    return storages.get(key, bytes, element_size);
  });
  storages.fill(pickle::read(input, no_storage).items());
  return value;
}

}  // namespace

bool is_legacy_pth(std::string_view head) {
  return head.size() >= 2 && head[0] == '\x80' && head[1] >= pickle::kProtocol &&
         head[1] <= pickle::kNewestProtocol;
}

Value read_legacy_pth(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) fail<CheckpointError>("cannot be read: {}", std::generic_category().message(errno));
  file.seekg(0);
  pickle::Input input(file, static_cast<uint64_t>(size));
  Value value;
  bool is_ours = false;
  bool little_endian = false;
  try {
    is_ours = read_magic(input);
    little_endian = is_ours && read_machine(input);
    if (little_endian) value = read_object(input);
  } catch (const pickle::Damage& damage) {
    fail<DamagedCheckpointError>("is truncated or damaged at byte {}: {}", input.position(),
                                 damage.what);
  } catch (const DamagedCheckpointError&) {
    throw;
  } catch (const CheckpointError& error) {
    // What would be an object of a kind that is not supported where checksums are right.
    fail<DamagedCheckpointError>("may be damaged, as it has no checksums: {}", error.what());
  }
  if (!is_ours) {
    fail<CheckpointError>(
        "is a pickle that torch.save did not write; load it in Python, and save its tensors with "
        "torch.save");
  }
  if (!little_endian) {
    fail<CheckpointError>(
        "was written on a big-endian machine, which this reader does not support");
  }
  log_info("{}: has no checksums (CRC32), so damage to it cannot be detected", path);
  return value;
}

}  // namespace polyak
