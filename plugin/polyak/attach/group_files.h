// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <set>
#include <string>

#include "polyak/attach/group.h"
#include "polyak/attach/tensor_names.h"
#include "polyak/checkpoint/value.h"

// What the files of a group's averages hold, under the program's names.
namespace polyak {

/// The group's checkpoint. Tensors have the program's names, or places where it showed none or one
/// for two of them; what no optimizer has is copied.
Value named_checkpoint_of(Group& group, const TensorNames& names);

/// The same as archives for C++ programs: `averages.pt`, of a named average `averages.NAME.pt`.
/// @param modules dotted names of the program's modules
void write_archives(const Group& group, const TensorNames& names,
                    const std::set<std::string>& modules);

}  // namespace polyak
