// SPDX-License-Identifier: Apache-2.0
// What follows the header of a file of torch.save before PyTorch 1.6: the object, the keys, the
// storages.
#include "fuzzing.h"
#include "polyak/checkpoint/pth.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace std::string_view_literals;
  static const polyak::fuzz::MemoryFile file;
  std::string bytes(
      "\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
      "\x80\x02}X\x0d\0\0\0little_endian\x88s."sv);
  bytes.append(reinterpret_cast<const char*>(data), size);
  try {
    polyak::fuzz::check_tensors(polyak::read_pth(file.write(bytes)));
  } catch (const polyak::CheckpointError&) {
  }
  return 0;
}
