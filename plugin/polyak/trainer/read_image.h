// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace polyak {

/// Reads a JPEG or PNG file, independent of its extension, with the same result as Python's PIL and
/// `convert('RGB')`: grey, palettes and CMYK become red, green and blue, alpha is dropped, gamma
/// and colour profiles are ignored. Of 16-bit channels the upper 8 bits are used, where PIL clips.
/// @param orientation whether to rotate and mirror the image upright according to its EXIF block
/// (JPEG's APP1, PNG's eXIf), like PIL's `ImageOps.exif_transpose`; a damaged block is ignored
/// @return uint8 [3, height, width], red, green and blue
/// @throws DataError naming the file if it cannot be read, is neither, is damaged or truncated
at::Tensor read_image(const std::string& path, bool orientation = true);

/// The same in two steps: the bytes of a file, and the image in them.
/// @param path for messages
std::vector<unsigned char> read_bytes(const std::string& path);
at::Tensor decode_image(const std::vector<unsigned char>& bytes, const std::string& path,
                        bool orientation = true);

}  // namespace polyak
