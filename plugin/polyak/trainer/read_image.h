// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace polyak {

/// Reads a JPEG or PNG file, whatever its name ends in, to what Python's PIL makes of it by
/// `convert('RGB')`: grey, palettes and CMYK become red, green and blue, alpha is dropped, gamma
/// and colour profiles change nothing. Of channels of 16 bits the higher 8 count, where PIL clips.
/// @param orientation whether to turn and mirror the image upright as its EXIF block says (JPEG's
///   APP1, PNG's eXIf), as PIL's `ImageOps.exif_transpose` does; a damaged block says nothing
/// @return uint8 [3, height, width], red, green and blue
/// @throws DataError naming the file when it cannot be read, is neither, is damaged or cut off
at::Tensor read_image(const std::string& path, bool orientation = true);

/// The same in two steps: the bytes of a file, and the image that they hold.
/// @param path for messages
std::vector<unsigned char> read_bytes(const std::string& path);
at::Tensor decode_image(const std::vector<unsigned char>& bytes, const std::string& path,
                        bool orientation = true);

}  // namespace polyak
