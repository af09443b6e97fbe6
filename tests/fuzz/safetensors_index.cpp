// SPDX-License-Identifier: Apache-2.0
// The index of a .safetensors file that is split, next to two shards.
#include <filesystem>
#include <fstream>

#include "fuzzing.h"
#include "polyak/checkpoint/safetensors.h"

namespace {

/// A folder in memory.
class Folder {
 public:
  Folder() {
    char name[] = "/dev/shm/polyak_fuzz_XXXXXX";
    polyak::fuzz::require(mkdtemp(name) != nullptr, "no folder in memory");
    name_ = name;
    for (const char* shard : {"a", "b"}) {
      const std::string header =
          std::string(R"({")") + shard + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
      const uint64_t length = header.size();
      std::ofstream file(name_ + "/" + shard + ".safetensors", std::ios::binary);
      file.write(reinterpret_cast<const char*>(&length), sizeof(length));
      file << header << std::string(8, '\1');
    }
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(name_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string file(const std::string& name) const { return name_ + "/" + name; }

 private:
  std::string name_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  static const std::string index = folder.file("model.safetensors.index.json");
  std::ofstream(index, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  try {
    polyak::fuzz::check_tensors(polyak::read_safetensors(index));
  } catch (const polyak::CheckpointError&) {
  }
  return 0;
}
