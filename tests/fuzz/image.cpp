// SPDX-License-Identifier: Apache-2.0
// A JPEG or PNG file.
#include "fuzzing.h"
#include "polyak/core/error.h"
#include "polyak/trainer/read_image.h"

namespace {

constexpr uint64_t kMostPixels = 1 << 20;

uint64_t big_endian(const uint8_t* bytes, int count) {
  uint64_t value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}

/// Whether an image states a large size: reading it takes memory and time, and shows nothing.
bool is_large(const uint8_t* data, size_t size) {
  if (size >= 24 && data[0] == 0x89) {
    const uint64_t width = big_endian(data + 16, 4), height = big_endian(data + 20, 4);
    return width > kMostPixels || height > kMostPixels || width * height > kMostPixels;
  }
  for (size_t i = 2; i + 9 < size; ++i) {  // anything that may be a start of frame
    if (data[i] == 0xff && data[i + 1] >= 0xc0 && data[i + 1] <= 0xcf &&
        big_endian(data + i + 5, 2) * big_endian(data + i + 7, 2) > kMostPixels) {
      return true;
    }
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (is_large(data, size)) return -1;
  const std::vector<unsigned char> bytes(data, data + size);
  for (const bool orientation : {false, true}) {
    try {
      const at::Tensor image = polyak::decode_image(bytes, "image", orientation);
      polyak::fuzz::require(image.dim() == 3 && image.size(0) == 3, "an image without 3 channels");
    } catch (const polyak::DataError&) {
    }
  }
  return 0;
}
