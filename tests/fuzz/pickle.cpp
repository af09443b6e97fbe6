// SPDX-License-Identifier: Apache-2.0
// A pickle, with storages of zeros. It must give the same from memory and from a file that is read
// in parts.
#include <c10/core/CPUAllocator.h>
#include <c10/core/Storage.h>

#include <sstream>

#include "fuzzing.h"
#include "polyak/checkpoint/pickle_reader.h"

namespace polyak {
namespace {

constexpr size_t kMostBytes = 1 << 16;  // of a storage

c10::Storage zeros(const std::string& key, size_t bytes, size_t element_size) {
  fuzz::require(element_size > 0 && bytes % element_size == 0, "a part of an element");
  if (bytes > kMostBytes) fail<CheckpointError>("the storage {} is too large", key);
  at::DataPtr data = c10::GetCPUAllocator()->allocate(bytes);
  return c10::Storage(c10::Storage::use_byte_size_t(), bytes, std::move(data),
                      c10::GetCPUAllocator(), true);
}

/// What comes of it: an error, or a number of bytes.
std::string outcome(pickle::Input& input) {
  try {
    fuzz::check_tensors(pickle::read(input, zeros));
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return std::to_string(input.position());
}

}  // namespace
}  // namespace polyak

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  polyak::pickle::Input in_memory(bytes);
  const std::string from_memory = polyak::outcome(in_memory);
  std::istringstream file(bytes);
  polyak::pickle::Input in_parts(file, size);
  polyak::fuzz::require(polyak::outcome(in_parts) == from_memory, "a file gives another result");
  return 0;
}
