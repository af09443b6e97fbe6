// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/averaging/slot.h"

namespace polyak {

/// What became of the tensors of an average when the layers of its model changed.
struct LayerChanges {
  std::vector<std::string> added;      // their averages start as copies of the model
  std::vector<std::string> removed;    // left the average
  std::vector<std::string> restarted;  // of another shape: start as copies
  std::vector<std::string> renamed;    // "old -> new": the same tensor, whose average continues
  std::vector<std::string> replaced;   // another tensor of the same shape: the average continues
  bool ties = false;                   // other names refer to one tensor

  /// One line for the log; empty if nothing changed.
  std::string text() const;
};

/// Names of a model's tensors and the indexes of their slots; tied tensors share one.
using SlotNames = std::vector<std::pair<std::string, size_t>>;

/// The slots that another tensor continues under one of their names. One whose tensor is in the
/// model under other names alone only moved; one of tied tensors stays under its other name.
/// @param now the model's tensors
std::unordered_map<std::string, size_t> replaced_names(const Slots& before,
                                                       const SlotNames& names_before,
                                                       const std::vector<NamedTensor>& now);

}  // namespace polyak
