// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"

namespace polyak {

/// Writes tensors in the format in which torch::save writes a module with these dotted names, so
/// that torch::load can read them into one.
/// @param modules dotted names of all modules; torch::load also expects those without tensors
/// @param sink receives the bytes and returns how many it took, as LibTorch's writers do
void write_archive(const std::vector<NamedTensor>& tensors, const std::set<std::string>& modules,
                   const std::function<size_t(const void*, size_t)>& sink);

}  // namespace polyak
