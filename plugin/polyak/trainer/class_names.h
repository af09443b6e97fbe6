// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/trainer/dataset.h"

namespace polyak {

/// "'cat', 'dog' and 3 more": a list of names for messages.
std::string name_list(const std::vector<std::string>& names);

/// The names of the classes that a model learns from a dataset; empty if the dataset has no names
/// or no labels.
std::vector<std::string> classes_to_learn(const Dataset& training);

/// The entry `meta.dataset_meta` of a checkpoint, as MMEngine writes it.
Value make_dataset_meta(const std::vector<std::string>& classes);
/// The classes of that entry; empty if there are none.
std::vector<std::string> classes_of_checkpoint(const Value& checkpoint);

/// Whether a checkpoint of another program has different class names than the folders ("tench,
/// Tinca tinca" for n01440764): the same number of names, none of them in common.
bool named_otherwise(const Value& checkpoint, const std::vector<std::string>& classes);

/// @throws CheckpointError naming the difference if a run would be resumed with other classes than
/// the checkpoint's, or in a different order. Does nothing if either has no names.
void check_same_classes(const Value& checkpoint, const std::string& file,
                        const std::vector<std::string>& classes);

}  // namespace polyak
