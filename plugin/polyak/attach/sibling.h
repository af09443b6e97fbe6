// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <optional>
#include <string>
#include <unordered_map>

namespace polyak {

/// Inserts a mark into a file name: `model.pt` becomes `model.averaged.pt`, `model` becomes
/// `model.averaged`, `epoch.2` becomes `epoch.2.averaged`.
std::string sibling_path(const std::string& path, const std::string& mark);

/// Averages by the program's tensors. They are also found by tensors with the same memory, such as
/// detached ones.
class AveragedTensors {
 public:
  void add(const at::Tensor& tensor, const at::Tensor& average);
  /// The average on the tensor's device, with its dtype and requires_grad. An undefined tensor if
  /// there is none.
  at::Tensor find(const at::Tensor& tensor) const;

 private:
  struct Pair {
    at::Tensor tensor;
    at::Tensor average;
  };
  std::unordered_map<const void*, Pair> by_tensor_;
  std::unordered_map<const void*, Pair> by_memory_;
};

/// A copy of a module, from an archive or TorchScript, with averages in place of the tensors that
/// have one; nullopt if none has. The module and its tensors are not changed.
/// @param seen receives every tensor of the module with its dotted name, and returns a substitute
/// for a missing average, or an undefined tensor
std::optional<torch::jit::Module> averaged_copy(
    const torch::jit::Module& module, const AveragedTensors& averages,
    const std::function<at::Tensor(const at::Tensor&, const std::string&)>& seen);

}  // namespace polyak
