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

/// All groups, and the group of each tensor. A tensor is in at most one group.
class Groups {
 public:
  const std::vector<std::unique_ptr<Group>>& all() const { return groups_; }
  /// The group that averages the tensor at an address; nullptr if there is none.
  Group* find(const void* address) const;

  /// @param made the optimizer's place in the order of creation, from 1
  /// @param optimizer its class
  Group& make(int64_t made, std::string optimizer);
  /// Adds the tensors that are in no group.
  void add(Group& group, const std::vector<NamedTensor>& tensors);
  /// Sets the frozen parameters of a group to those of `beside` that no group averages and no other
  /// group copies.
  /// @return the buffers of `beside`
  std::vector<NamedTensor> set_frozen(Group& group, const std::vector<NamedTensor>& beside);
  /// Replaces a tensor by another, like Group::replace().
  void replace(const at::Tensor& before, const at::Tensor& now, bool continues);

  /// Removes tensors of the group that the program has released, unless that is all of them.
  std::vector<NamedTensor> remove_orphans(Group& group);

  /// The groups whose tensors the program has released. They are the last of all() afterwards.
  std::vector<Group*> expired();
  /// Drops groups that expired() returned.
  void drop(const std::vector<Group*>& expired);

  /// The averages of the hook with this name, apart from those without an update. Buffers that the
  /// hook does not average are omitted: the average has their values of the last step, not of now.
  AveragedTensors averages(const std::string& name, bool with_buffers) const;
  /// Averaged parameters that the program has released, by name.
  std::unordered_map<std::string, at::Tensor> orphans(const TensorNames& names) const;
  /// Whether the parameters of a module are all parameters of some groups, with another number of
  /// rows since the last step, such as the points of a scene. The old number must be the same for
  /// all of them, and so must the new one.
  bool is_grown(const torch::jit::Module& module) const;
  /// Whether a module without averaged tensors may contain copies of some: it has a tensor with the
  /// shape of an averaged one, and is not an optimizer.
  bool may_be_copy(const torch::jit::Module& module) const;

 private:
  std::vector<std::unique_ptr<Group>> groups_;
  std::unordered_map<const void*, Group*> group_of_;   // by tensor
  std::unordered_map<const void*, Group*> frozen_of_;  // by frozen parameter
};

}  // namespace polyak
