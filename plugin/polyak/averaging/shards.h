// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "polyak/averaging/process_group.h"

namespace polyak {

/// How tensors are cut among processes: all of them in a row, in parts of about equal numbers of
/// bytes, so that most belong to one process and a few are cut.
class ShardLayout {
 public:
  struct Item {
    int64_t elements;
    int64_t bytes_of_one;  // element
  };
  /// Elements of one tensor; empty for processes that have nothing of it.
  struct Part {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t size() const { return end - begin; }
  };

  ShardLayout() = default;
  ShardLayout(const std::vector<Item>& items, int64_t processes);

  int64_t processes() const { return processes_; }
  size_t items() const { return cuts_.size(); }
  Part part(size_t item, int64_t rank) const {
    const auto place = static_cast<size_t>(rank);
    return {cuts_[item][place], cuts_[item][place + 1]};
  }

 private:
  int64_t processes_ = 1;
  std::vector<std::vector<int64_t>> cuts_;  // of each item, the first element of each process
};

/// Puts the parts of all processes together, in pieces of at most 25 MB.
/// @param parts of this process, by item; one-dimensional, or undefined where there is none
/// @param wholes one-dimensional tensors, which are filled
/// @throws ProcessGroupError
void gather_parts(ProcessGroup& processes, const ShardLayout& layout,
                  const std::vector<at::Tensor>& parts, const std::vector<at::Tensor>& wholes);

}  // namespace polyak
