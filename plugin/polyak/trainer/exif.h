// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace polyak {

/// The orientation of an image in its EXIF data: tag 0x0112 of the first directory.
/// @param data a TIFF header and what follows it, in either byte order
/// @return 1 (upright) to 8; 1 if the block is damaged or has no orientation
int exif_orientation(const unsigned char* data, size_t size);

}  // namespace polyak
