// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "polyak/averaging/model.h"

namespace polyak {

/// A tensor of the program that we do not keep alive. No other tensor can get its address
/// meanwhile.
using WeakTensor = c10::weak_intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>;

/// Whether a tensor can be averaged: it is strided and its memory is readable.
bool can_be_averaged(const at::Tensor& tensor);

/// The names of a program's tensors, as far as they are known. The longest of several names is
/// kept, since a submodule only knows the end of a name. Names from module trees take precedence
/// over those from archives, which may have the model under another name.
class TensorNames {
 public:
  /// Adds the parameters and buffers of one tree of modules.
  void add_tree(const std::vector<NamedTensor>& tensors);
  /// Adds a name from another source.
  void add(const at::Tensor& tensor, const std::string& name);

  /// "" for an unknown tensor.
  std::string name_of(const at::Tensor& tensor) const;
  /// The buffers and frozen parameters of trees that contain one of `tensors`, sorted by name.
  /// Excludes tensors that cannot be averaged.
  std::vector<NamedTensor> beside(const std::vector<NamedTensor>& tensors) const;
  /// Increases whenever a tree adds new tensors.
  int64_t generation() const { return generation_; }

 private:
  struct Entry {
    WeakTensor tensor;
    std::string name;
    bool buffer = false;
    int64_t tree = 0;  // 0: not in a tree
  };
  Entry& entry_of(const at::Tensor& tensor);
  void drop_expired();

  std::unordered_map<const void*, Entry> entries_;
  int64_t trees_ = 0;
  int64_t generation_ = 0;
  size_t forget_at_ = 1024;
};

}  // namespace polyak
