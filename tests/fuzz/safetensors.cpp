// SPDX-License-Identifier: Apache-2.0
// A .safetensors file: the length of its header, the header, the data.
#include "polyak/checkpoint/safetensors.h"
#include "fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const polyak::fuzz::MemoryFile file;
  const std::string& path = file.write({reinterpret_cast<const char*>(data), size});
  for (const bool tensors : {true, false}) {
    try {
      tensors ? polyak::fuzz::check_tensors(polyak::read_safetensors(path))
              : static_cast<void>(polyak::read_safetensors_metadata(path));
    } catch (const polyak::CheckpointError&) {
    }
  }
  return 0;
}
