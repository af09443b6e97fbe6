// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

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

}  // namespace polyak
