// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>

#include "polyak/attach/group.h"
#include "polyak/attach/tensor_names.h"
#include "polyak/checkpoint/value.h"

// The files of a group's averages, with the program's names.
namespace polyak {

/// The group's checkpoint. Tensors have the program's names, or names by position if these are
/// unknown or not unique. Includes the frozen parameters.
Value named_checkpoint_of(Group& group, const TensorNames& names);

/// Writes the same as archives for C++ programs: `averages.pt`, or `averages.NAME.pt` for a named
/// average.
/// @param modules dotted names of the program's modules
void write_archives(const Group& group, const TensorNames& names,
                    const std::set<std::string>& modules);

}  // namespace polyak
