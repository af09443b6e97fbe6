// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <optional>
#include <string>
#include <unordered_map>

namespace polyak {

/// `model.pt` gives `model.averaged.pt`, `model` `model.averaged`, `epoch.2` `epoch.2.averaged`.
std::string sibling_path(const std::string& path, const std::string& mark);

/// Averaged values for a program's tensors, found also by tensors that show the same memory, such
/// as detached ones.
class AveragedTensors {
 public:
  void add(const at::Tensor& tensor, const at::Tensor& average);
  /// The average as the program would have it: on the tensor's device, in its dtype, with its
  /// requires_grad. An undefined tensor where there is none.
  at::Tensor find(const at::Tensor& tensor) const;

 private:
  struct Pair {
    at::Tensor tensor;
    at::Tensor average;
  };
  std::unordered_map<const void*, Pair> by_tensor_;
  std::unordered_map<const void*, Pair> by_memory_;
};

/// A copy of a module, an archive's or a TorchScript one, that holds averaged tensors for those
/// that have one; nothing when none has. Neither the module nor what it holds is changed.
/// @param seen receives every tensor of the module and its dotted name, and says what stands in for
/// an average where there is none; undefined: nothing
std::optional<torch::jit::Module> averaged_copy(
    const torch::jit::Module& module, const AveragedTensors& averages,
    const std::function<at::Tensor(const at::Tensor&, const std::string&)>& seen);

}  // namespace polyak
