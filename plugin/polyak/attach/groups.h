// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "polyak/attach/group.h"
#include "polyak/attach/sibling.h"
#include "polyak/attach/tensor_names.h"

namespace polyak {

/// Whether two tensors differ in the number of rows only.
bool same_but_for_rows(const at::Tensor& a, const at::Tensor& b);

/// All groups, and the group of each tensor. A tensor is in one group at most.
class Groups {
 public:
  const std::vector<std::unique_ptr<Group>>& all() const { return groups_; }
  /// The group that averages the tensor at an address; nullptr if there is none.
  Group* find(const void* address) const;

  /// @param made the optimizer's place among the optimizers
  /// @param optimizer its class
  Group& make(int64_t made, std::string optimizer);
  /// Adds the tensors that are in no group.
  void add(Group& group, const std::vector<NamedTensor>& tensors);
  /// Sets the frozen parameters of a group to those of `beside` that no group averages and no other
  /// group copies.
  /// @return the buffers of `beside`
  std::vector<NamedTensor> set_frozen(Group& group, const std::vector<NamedTensor>& beside);
  /// Puts a tensor in the place of another, as Group::replace() does.
  void replace(const at::Tensor& before, const at::Tensor& now, bool continues);

  /// The groups whose tensors the program has let go. They are the last of all() afterwards.
  std::vector<Group*> expired();
  /// Drops groups that expired() returned.
  void drop(const std::vector<Group*>& expired);

  /// The averages of the hook of that name, without those that have had no update. Buffers that the
  /// hook does not average are left out: those of the average are of the last step.
  AveragedTensors averages(const std::string& name, bool with_buffers) const;
  /// Averaged parameters that the program has let go, by their names.
  std::unordered_map<std::string, at::Tensor> orphans(const TensorNames& names) const;
  /// Whether the parameters in a module are all that some groups average, with another number of
  /// rows since the last step, as points of a scene get: the same old and the same new number in
  /// each.
  bool is_grown(const torch::jit::Module& module) const;
  /// Whether a module none of whose tensors has an average may hold copies of some that have: it
  /// has a tensor of a shape that an optimizer steps, and is not an optimizer.
  bool may_be_copy(const torch::jit::Module& module) const;

 private:
  std::vector<std::unique_ptr<Group>> groups_;
  std::unordered_map<const void*, Group*> group_of_;   // by tensor
  std::unordered_map<const void*, Group*> frozen_of_;  // the same of those that are copied
};

}  // namespace polyak
