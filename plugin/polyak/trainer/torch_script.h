// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/Optional.h>
#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/trainer/network.h"

namespace torch {
namespace jit {
struct Module;
}
}  // namespace torch

namespace polyak {

class ScriptNorm;

struct TorchScriptOptions : Options {
  Node path;
  Node loss;
  std::optional<int64_t> num_classes;
  void visit(OptionVisitor& visitor) override;
};

/// A classifier that Python exported by `torch.jit.script(model).save(path)`, with its own
/// `forward` from images to logits. It is trained like a network of this library.
///
/// The module's parameters and buffers are registered here under their own dotted names, as the
/// same tensors, so that devices, averages, swaps, optimizers and checkpoints treat it as an
/// ordinary torch::nn::Module. The names are those of Python's `state_dict()`.
class TorchScript : public torch::nn::Module, public Algorithm {
 public:
  /// @throws ConfigError at the position of `path` if the file is missing, is not a TorchScript
  /// archive that this LibTorch can read, has no parameters, or has a forward with another
  /// signature
  TorchScript(const TorchScriptOptions& options, const Context& context);
  ~TorchScript() override;

  Losses loss(const Batch& batch) override;
  /// @throws Error if forward fails, or does not return float [N, num_classes]
  at::Tensor predict(const at::Tensor& images) override;

  /// A copy with its own tensors and the same ties. Its parameters have the same requires_grad.
  std::shared_ptr<torch::nn::Module> clone(
      const c10::optional<c10::Device>& device = c10::nullopt) const override;
  void train(bool on = true) override;
  /// The archive, as an absolute path.
  const std::string& file() const { return file_; }

 private:
  struct Assigned;

  TorchScript(const TorchScript& other, std::shared_ptr<torch::jit::Module> script);
  void check_forward_takes_images(const Node& path) const;
  void adopt();
  void adopt(const torch::jit::Module& script, torch::nn::Module& into,
             std::map<const void*, std::shared_ptr<torch::nn::Module>>& adopted);

  std::string file_;
  int64_t num_classes_;
  std::shared_ptr<Loss> loss_;
  std::shared_ptr<torch::jit::Module> script_;
  std::vector<Assigned> assigned_;
  std::vector<std::shared_ptr<ScriptNorm>> norms_;
};

}  // namespace polyak
