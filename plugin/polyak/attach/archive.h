// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"

namespace polyak {

/// Writes tensors as torch::save writes a module that has them under these dotted names, so that
/// torch::load reads them into one.
/// @param modules dotted names of modules; those without tensors must be in such an archive, too
/// @param sink takes bytes, as LibTorch's writers do
void write_archive(const std::vector<NamedTensor>& tensors, const std::set<std::string>& modules,
                   const std::function<size_t(const void*, size_t)>& sink);

}  // namespace polyak
