// SPDX-License-Identifier: Apache-2.0
// A file of MNIST, plain or compressed, or of CIFAR-10. The first byte says which.
#include "fuzzing.h"
#include "polyak/core/error.h"
#include "polyak/trainer/image_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return -1;
  static const polyak::fuzz::MemoryFile file;
  const int kind = data[0] % 4;
  const std::string& path = file.write({reinterpret_cast<const char*>(data + 1), size - 1});
  try {
    if (kind == 0) {
      polyak::read_cifar10({path});
    } else {
      polyak::read_idx(path, kind);
    }
  } catch (const polyak::DataError&) {
  }
  return 0;
}
