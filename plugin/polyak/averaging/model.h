// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "polyak/core/export.h"

namespace torch {
namespace nn {
class Module;
template <typename Contained>
class ModuleHolder;
}  // namespace nn
namespace jit {
struct Module;
}
}  // namespace torch

namespace polyak {

/// A parameter or buffer with its dotted name in the model.
struct NamedTensor {
  std::string name;     // `features.0.weight`
  at::Tensor tensor;    // a handle, not a copy
  bool buffer = false;  // else a parameter
};

/// A handle to the user's model of any kind: a `torch::nn::Module` (kept alive by the caller, or
/// shared), a module holder such as `torch::nn::Sequential`, a `torch::jit::Module`, or a list of
/// named tensors, for trainers that own flat buffers. Copies refer to the same model.
class POLYAK_API ModelRef {
 public:
  // Implicit, so that a call reads `ema.update_parameters(model)` for every kind of model.
  /// @throws Error for a null pointer
  ModelRef(torch::nn::Module& module);
  ModelRef(std::shared_ptr<torch::nn::Module> module);
  ModelRef(const torch::jit::Module& module);
  /// Tensors that may be views of one buffer: a swap writes values into them and keeps their
  /// addresses. Each handle made from a list is a different model: make one and keep it. The list
  /// holds the tensors that it was made from, so make a new handle when one is replaced. A list has
  /// no train mode; `train` does nothing.
  /// @throws Error for an undefined tensor, an empty name, or a name that occurs twice
  explicit ModelRef(std::vector<NamedTensor> tensors);
  template <class Net>
  ModelRef(const std::shared_ptr<Net>& module)
      : ModelRef(std::shared_ptr<torch::nn::Module>(module)) {}
  template <class Net>
  ModelRef(const torch::nn::ModuleHolder<Net>& holder)
      : ModelRef(std::shared_ptr<torch::nn::Module>(holder.ptr())) {}

  /// Parameters and buffers in the order of Python's state_dict: each module's own parameters, its
  /// own buffers, then its children. A tensor with several names is listed under each.
  std::vector<NamedTensor> tensors() const;

  /// Equal for handles to the same model. It is an address, which another model may reuse once this
  /// one is gone.
  const void* identity() const;
  /// The nn module, or nullptr for another kind.
  torch::nn::Module* nn_module() const { return module_; }
  /// The TorchScript module, or nullptr for another kind.
  const torch::jit::Module* script() const { return script_.get(); }
  /// Whether the model is a list of tensors.
  bool is_list() const { return list_ != nullptr; }
  /// Whether the model is in train mode; a list is not.
  bool is_training() const;
  void train(bool on) const;
  /// The class's name, for messages.
  std::string class_name() const;

 private:
  friend class ModelBinding;
  friend class ModelIdentity;
  struct List;
  std::shared_ptr<torch::nn::Module> owner_;
  torch::nn::Module* module_ = nullptr;
  std::shared_ptr<torch::jit::Module> script_;
  std::shared_ptr<const List> list_;
};

using Model [[deprecated("use polyak::ModelRef; this alias will be removed in 0.3")]] = ModelRef;

/// The tensors of a handle that is a list.
struct ModelRef::List {
  std::vector<NamedTensor> tensors;                                 // in the given order
  std::shared_ptr<const void> averages = std::make_shared<char>();  // held by each bound average
};

}  // namespace polyak
