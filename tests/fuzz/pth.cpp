// SPDX-License-Identifier: Apache-2.0
// A file of torch.save, of either format: the zip's directory, its records, the pickle. The seeds
// have no checksums, so that changes pass them.
#include "polyak/checkpoint/pth.h"
#include "fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const polyak::fuzz::MemoryFile file;
  try {
    polyak::fuzz::check_tensors(
        polyak::read_pth(file.write({reinterpret_cast<const char*>(data), size})));
  } catch (const polyak::CheckpointError&) {
  }
  return 0;
}
