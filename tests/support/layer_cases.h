// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/utils.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "polyak/averaging/model.h"

namespace polyak::test {

/// A model whose layers are open to changes.
struct LayeredNet : torch::nn::Module {
  LayeredNet() {
    embedding = register_module("embedding", torch::nn::Embedding(5, 3));
    body = register_module("body", torch::nn::Linear(3, 4));
    norm = register_module("norm", torch::nn::BatchNorm1d(4));
    blocks = register_module("blocks", torch::nn::ModuleList());
    for (int i = 0; i < 3; ++i) blocks->push_back(torch::nn::Linear(4, 4));
    head = register_module("head", torch::nn::Linear(4, 5));
    out = register_parameter("out", embedding->weight);  // tied
    empty = register_module("empty", std::make_shared<torch::nn::Module>("Empty"));
  }

  /// Makes an entry of a module's list of parameters another tensor.
  template <class Layer>
  static void replace_parameter(Layer& layer, const std::string& name, const at::Tensor& value) {
    Open::drop(layer, name);
    layer.register_parameter(name, value);
  }
  template <class Layer>
  static void drop_parameter(Layer& layer, const std::string& name) {
    Open::drop(layer, name);
  }

  /// Changes every number a little, as a step of training does, but not frozen parameters.
  void step(bool with_frozen = true) {
    const torch::NoGradGuard no_grad;
    for (const NamedTensor& item : ModelRef(*this).tensors()) {
      if (!item.tensor.is_floating_point()) continue;
      if (!with_frozen && !item.buffer && !item.tensor.requires_grad()) continue;
      item.tensor.add_(at::randn_like(item.tensor), 0.1);
    }
  }

  torch::nn::Embedding embedding{nullptr};
  torch::nn::Linear body{nullptr}, head{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::ModuleList blocks{nullptr};
  std::shared_ptr<torch::nn::Module> empty;
  at::Tensor out;

 private:
  struct Open : torch::nn::Module {
    static void drop(torch::nn::Module& module, const std::string& name) {
      (module.*(&Open::parameters_)).erase(name);
    }
  };
};

/// A change of a model's layers while it is trained.
struct LayerCase {
  std::string name;
  std::function<void(LayeredNet&)> change;
  std::vector<std::string> fresh;              // names whose averages start as copies
  std::vector<std::string> gone;               // names that leave
  std::map<std::string, std::string> renamed;  // new name -> old one, whose average continues
};

inline at::Tensor parameter(at::IntArrayRef sizes) {
  return at::randn(sizes).requires_grad_(true);
}

inline std::vector<LayerCase> layer_cases() {
  std::vector<LayerCase> cases;
  cases.push_back(
      {"replace_module of another shape",
       [](LayeredNet& net) { net.body = net.replace_module("body", torch::nn::Linear(3, 6)); },
       {"body.weight", "body.bias"},
       {},
       {}});
  cases.push_back({"new head",
                   [](LayeredNet& net) {
                     net.unregister_module("head");
                     net.register_module("classifier", torch::nn::Linear(4, 7));
                   },
                   {"classifier.weight", "classifier.bias"},
                   {"head.weight", "head.bias"},
                   {}});
  cases.push_back(
      {"LoRA added",
       [](LayeredNet& net) {
         net.body->register_module("lora_a", torch::nn::Linear(3, 2));
         net.body->register_module("lora_b", torch::nn::Linear(2, 4));
       },
       {"body.lora_a.weight", "body.lora_a.bias", "body.lora_b.weight", "body.lora_b.bias"},
       {},
       {}});
  cases.push_back({"layer wrapped",
                   [](LayeredNet& net) {
                     const auto wrapper = std::make_shared<torch::nn::Module>("LoRA");
                     wrapper->register_module("base", net.body);
                     wrapper->register_parameter("scale", parameter({1}));
                     net.replace_module("body", wrapper);
                   },
                   {"body.scale"},
                   {},
                   {{"body.base.weight", "body.weight"}, {"body.base.bias", "body.bias"}}});
  cases.push_back({"pruning by a mask",
                   [](LayeredNet& net) {
                     const at::Tensor weight = net.body->weight;
                     LayeredNet::drop_parameter(*net.body, "weight");
                     net.body->register_parameter("weight_orig", weight);
                     net.body->register_buffer("weight_mask", weight.detach().gt(0).to(at::kFloat));
                   },
                   {"body.weight_mask"},
                   {},
                   {{"body.weight_orig", "body.weight"}}});
  cases.push_back({"embedding grows",
                   [](LayeredNet& net) {
                     const at::Tensor larger = parameter({8, 3});
                     LayeredNet::replace_parameter(*net.embedding, "weight", larger);
                     LayeredNet::replace_parameter(net, "out", larger);
                   },
                   {"embedding.weight", "out"},
                   {},
                   {}});
  cases.push_back({"embedding grows in place",
                   [](LayeredNet& net) {
                     net.embedding->weight.set_data(at::randn({8, 3}));
                   },
                   {"embedding.weight", "out"},
                   {},
                   {}});
  cases.push_back({"untied",
                   [](LayeredNet& net) {
                     LayeredNet::replace_parameter(net, "out", parameter({6, 3}));
                   },
                   {"out"},
                   {},
                   {}});
  cases.push_back({"list shrinks",
                   [](LayeredNet& net) { net.blocks->unregister_module("2"); },
                   {},
                   {"blocks.2.weight", "blocks.2.bias"},
                   {}});
  cases.push_back({"list grows",
                   [](LayeredNet& net) { net.blocks->push_back(torch::nn::Linear(4, 4)); },
                   {"blocks.3.weight", "blocks.3.bias"},
                   {},
                   {}});
  cases.push_back({"norm folded",
                   [](LayeredNet& net) { net.unregister_module("norm"); },
                   {},
                   {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
                    "norm.num_batches_tracked"},
                   {}});
  cases.push_back({"first tensor of an empty part",
                   [](LayeredNet& net) { net.empty->register_parameter("scale", parameter({2})); },
                   {"empty.scale"},
                   {},
                   {}});
  return cases;
}

}  // namespace polyak::test
