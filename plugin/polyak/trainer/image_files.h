// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace polyak {

/// Images and their labels, all in memory.
struct LabelledImages {
  at::Tensor images;      // uint8 [N, C, H, W]
  at::Tensor labels;      // int64 [N]
  at::Tensor found = {};  // bool [N]: whether the image could be read; undefined: all were
};

/// Reads an idx file (LeCun et al., the format of MNIST), plain or compressed by gzip: two zero
/// bytes, a type byte (only 0x08, uint8, is supported), the number of dimensions, each dimension as
/// a big-endian 32-bit number, the bytes.
/// @param dimensions how many dimensions the file must have
/// @return uint8 tensor with the file's dimensions
/// @throws DataError naming the file, what was found and what was expected
POLYAK_API at::Tensor read_idx(const std::string& path, int dimensions);

/// Reads a pair of idx files from `root`, each under its name or its name with `.gz`.
/// @throws DataError if a file is missing or invalid, if the numbers of labels and images differ,
/// or if a label is not below `num_classes`
POLYAK_API LabelledImages read_idx_pair(const std::string& root, const std::string& images,
                                        const std::string& labels, int64_t num_classes);

/// Reads files in CIFAR-10's binary format: records of one label byte and 3072 image bytes, red,
/// green and blue planes of 32 x 32.
/// @throws DataError as read_idx_pair
POLYAK_API LabelledImages read_cifar10(const std::vector<std::string>& paths);

}  // namespace polyak
