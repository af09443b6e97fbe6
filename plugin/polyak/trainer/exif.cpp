// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/exif.h"

#include <cstdint>

namespace polyak {

int exif_orientation(const unsigned char* data, size_t size) {
  constexpr size_t kHeader = 8, kEntry = 12;
  constexpr uint32_t kOrientation = 0x0112, kShort = 3, kLong = 4;
  if (size < kHeader) return 1;
  const bool big_endian = data[0] == 'M' && data[1] == 'M';
  if (!big_endian && !(data[0] == 'I' && data[1] == 'I')) return 1;
  // The caller has checked that this is within the block.
  const auto number = [&](size_t offset, size_t bytes) {
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      value = value << 8 | data[offset + (big_endian ? i : bytes - 1 - i)];
    }
    return value;
  };
  if (number(2, 2) != 42) return 1;
  const size_t directory = number(4, 4);
  if (directory > size - 2) return 1;
  const uint32_t entries = number(directory, 2);
  uint32_t orientation = 1;
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + i * kEntry;
    if (entry + kEntry > size) break;
    if (number(entry, 2) != kOrientation) continue;
    const uint32_t type = number(entry + 2, 2);
    if ((type != kShort && type != kLong) || number(entry + 4, 4) != 1) continue;
    orientation = number(entry + 8, type == kShort ? 2 : 4);
  }
  return orientation >= 1 && orientation <= 8 ? static_cast<int>(orientation) : 1;
}

}  // namespace polyak
