// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "polyak/averaging/model.h"

namespace polyak {

/// A tensor of the program that we do not keep alive. While it is held no other tensor gets its
/// address.
using WeakTensor = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;

/// Whether an average can be kept of a tensor: it lies dense in memory that can be read.
bool can_be_averaged(const at::Tensor& tensor);

/// What a program showed of its tensors' names. Of several names the longest stays: a module of a
/// part of the model knows only the end of it. A tree's names come before those of an archive,
/// where a model may stand under a name of its own.
class TensorNames {
 public:
  /// Takes in the parameters and buffers of one tree of modules.
  void add_tree(const std::vector<NamedTensor>& tensors);
  /// A name from elsewhere.
  void add(const at::Tensor& tensor, const std::string& name);

  /// "" for a tensor that none knows.
  std::string name_of(const at::Tensor& tensor) const;
  /// What stands in a tree with one of `tensors` and no optimizer changes: buffers, and parameters
  /// without gradients. By name; without what cannot be averaged.
  std::vector<NamedTensor> beside(const std::vector<NamedTensor>& tensors) const;
  /// Another number when a tree brought tensors that were not known.
  int64_t generation() const { return generation_; }

 private:
  struct Entry {
    WeakTensor tensor;
    std::string name;
    bool buffer = false;
    int64_t tree = 0;  // 0: seen alone
  };
  Entry& entry_of(const at::Tensor& tensor);
  void forget_the_dead();

  std::unordered_map<const void*, Entry> entries_;
  int64_t trees_ = 0;
  int64_t generation_ = 0;
  size_t forget_at_ = 1024;
};

}  // namespace polyak
