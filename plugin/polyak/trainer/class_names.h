// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/trainer/dataset.h"

namespace polyak {

/// "'cat', 'dog' and 3 more": names for a message.
std::string name_list(const std::vector<std::string>& names);

/// The names of the classes that a model learns from a set; empty where it has none, or keeps no
/// label.
std::vector<std::string> classes_to_learn(const Dataset& training);

/// The entry `meta.dataset_meta` of a checkpoint, as MMEngine writes it.
Value make_dataset_meta(const std::vector<std::string>& classes);
/// The classes of that entry; empty where there are none.
std::vector<std::string> classes_of_checkpoint(const Value& checkpoint);

/// Whether a checkpoint that another program wrote calls its classes by other names than folders
/// do ("tench, Tinca tinca" for n01440764): as many, and none in common.
bool named_otherwise(const Value& checkpoint, const std::vector<std::string>& classes);

/// @throws CheckpointError naming the difference when a run would go on with other classes than the
///   checkpoint's, or in another order; where one of both has none there is nothing to compare
void check_same_classes(const Value& checkpoint, const std::string& file,
                        const std::vector<std::string>& classes);

}  // namespace polyak
