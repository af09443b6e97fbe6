// SPDX-License-Identifier: Apache-2.0
// Small programs that train, and end, in every way that attach has to live with; none knows of it.
//
// scenario NAME [ARG ...]: files are written to the current folder; STEPS.bin holds the weights
// after each step.
#include <torch/script.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "scenario.h"

namespace {

using OptimizerPtr = std::unique_ptr<torch::optim::Optimizer>;

/// An optimizer of the program's own: gradient descent, and nothing that LibTorch brings.
class Descent : public torch::optim::Optimizer {
 public:
  explicit Descent(std::vector<torch::Tensor> parameters)
      : Optimizer(std::move(parameters), std::make_unique<torch::optim::SGDOptions>(0.05)) {}
  torch::Tensor step(LossClosure = nullptr) override {
    torch::NoGradGuard no_grad;
    for (auto& group : param_groups()) {
      for (auto& parameter : group.params()) {
        if (parameter.grad().defined()) parameter.add_(parameter.grad(), -0.05);
      }
    }
    return {};
  }
};

OptimizerPtr make_optimizer(const std::string& name, const std::vector<torch::Tensor>& parameters) {
  if (name == "SGD") {
    return std::make_unique<torch::optim::SGD>(
        parameters, torch::optim::SGDOptions(0.05).momentum(0.9).nesterov(true));
  }
  if (name == "Adam") return std::make_unique<torch::optim::Adam>(parameters);
  if (name == "AdamW") return std::make_unique<torch::optim::AdamW>(parameters);
  if (name == "RMSprop") return std::make_unique<torch::optim::RMSprop>(parameters);
  if (name == "Adagrad") return std::make_unique<torch::optim::Adagrad>(parameters);
  if (name == "LBFGS") {
    return std::make_unique<torch::optim::LBFGS>(parameters,
                                                 torch::optim::LBFGSOptions(0.1).max_iter(4));
  }
  if (name == "Descent") return std::make_unique<Descent>(parameters);
  throw std::invalid_argument(name);
}

/// One turn of the usual loop, by a closure.
void turn(Net& model, torch::optim::Optimizer& optimizer) {
  const auto x = torch::randn({32, 8});
  optimizer.step([&] {
    model.zero_grad();
    auto loss = (model.forward(x) - x.slice(1, 0, 4).tanh()).square().mean();
    loss.backward();
    return loss;
  });
}

std::vector<torch::Tensor> trainable(const torch::nn::Module& model) {
  std::vector<torch::Tensor> result;
  for (const auto& parameter : model.parameters()) {
    if (parameter.requires_grad()) result.push_back(parameter);
  }
  return result;
}

// ---- optimizers and models

int optimizer(const Arguments& arguments) {
  Net model;
  const OptimizerPtr chosen = make_optimizer(arguments.at(0), trainable(model));
  Steps dump("steps");
  for (int i = 0; i < 12; ++i) {
    const bool closure = arguments[0] == "LBFGS" || i % 2 == 1;
    closure&& arguments[0] != "Descent" ? turn(model, *chosen) : plain_turn(model, *chosen);
    dump.add(model);
  }
  save(model, "model.pt");
  if (arguments[0] != "LBFGS") save(*chosen, "optimizer.pt");  // whose save() fails in 1.13
  return 0;
}

/// What the program's own code finds in a file.
int load(const Arguments& arguments) {
  Net model;
  torch::serialize::InputArchive archive;
  archive.load_from(arguments.at(0));
  model.load(archive);
  Steps("loaded").add(model, arguments.size() > 1 ? arguments[1] : "");
  return 0;
}

int step_before_zero_grad(const Arguments&) {
  Net model;
  Descent descent(model.parameters());
  Steps dump("steps");
  for (int i = 0; i < 12; ++i) {
    loss_of(model).backward();
    descent.step();
    dump.add(model);
    descent.zero_grad();
  }
  return 0;
}

int groups_added_later(const Arguments&) {
  Net model;
  torch::optim::SGD sgd(model.first->parameters(), 0.05);
  Steps dump("steps");
  for (int i = 0; i < 6; ++i) {
    plain_turn(model, sgd);
    dump.add(model, "first");
  }
  sgd.add_param_group(torch::optim::OptimizerParamGroup(model.second->parameters()));
  for (int i = 0; i < 6; ++i) {
    plain_turn(model, sgd);
    dump.add(model, "first");
  }
  save(model, "model");
  return 0;
}

int parts(const Arguments&) {
  Net model;
  std::cout << model.parameters().size() << " parameters" << std::endl;
  torch::optim::SGD first(model.first->parameters(), 0.05);
  torch::optim::Adam second(model.second->parameters(), 0.01);
  Steps first_dump("first"), second_dump("second");
  for (int i = 0; i < 8; ++i) {
    first.zero_grad();
    second.zero_grad();
    loss_of(model).backward();
    first.step();
    first_dump.add(model, "first");
    if (i % 2 == 0) continue;
    second.step();
    second_dump.add(model, "second.weight");  // the bias stands beside the first part
  }
  save(model, "model.pt");
  return 0;
}

int new_optimizer_each_epoch(const Arguments&) {
  Net model;
  Steps dump("steps");
  for (int epoch = 0; epoch < 3; ++epoch) {
    torch::optim::SGD sgd(model.parameters(), 0.05 / (epoch + 1));
    train(model, sgd, 4, dump);
  }
  // Under a name of its own, which is no name of the model's.
  torch::serialize::OutputArchive nested, archive;
  model.save(nested);
  archive.write("model", nested);
  archive.save_to("nested.pt");
  return 0;
}

int new_descent_each_epoch(const Arguments&) {
  Net model;
  Steps dump("steps");
  OptimizerPtr descent;
  for (int epoch = 0; epoch < 3; ++epoch) {
    descent = std::make_unique<Descent>(model.parameters());  // the last one is still there
    train(model, *descent, 4, dump);
    save(model, "model.pt");
  }
  return 0;
}

int descent_warms_up(const Arguments&) {
  Net model;
  Descent descent(model.parameters());
  torch::optim::SGD sgd(model.parameters(), 0.05);
  Steps dump("steps");
  train(model, descent, 4, dump);
  for (int i = 0; i < 8; ++i) {
    train(model, sgd, 1, dump);
    save(model, "model.pt");
  }
  return 0;
}

/// One after the other at the same address.
int optimizers_in_one_place(const Arguments&) {
  Net model;
  Steps dump("steps");
  alignas(torch::optim::SGD) unsigned char place[sizeof(torch::optim::SGD) + sizeof(Descent)];
  auto* sgd = new (place) torch::optim::SGD(model.parameters(), 0.05);
  train(model, *sgd, 4, dump);
  sgd->~SGD();
  auto* descent = new (place) Descent(model.parameters());
  train(model, *descent, 4, dump);
  descent->~Descent();
  sgd = new (place) torch::optim::SGD(model.parameters(), 0.05);
  train(model, *sgd, 4, dump);
  sgd->~SGD();
  return 0;
}

/// In the manner of the DCGAN example, where nobody calls an optimizer's zero_grad().
int models_zero_gradients(const Arguments&) {
  Net generator, discriminator;
  Descent a(generator.parameters()), b(discriminator.parameters());
  Steps a_dump("a"), b_dump("b");
  for (int i = 0; i < 6; ++i) {
    discriminator.zero_grad();
    loss_of(discriminator).backward();
    loss_of(discriminator).backward();
    b.step();
    b_dump.add(discriminator);
    generator.zero_grad();
    loss_of(generator).backward();
    a.step();
    a_dump.add(generator);
  }
  save(generator, "generator.pt");
  return 0;
}

/// A model with what cannot be averaged: no reason to leave the rest of it alone.
int odd_tensors(const Arguments& arguments) {
  Net model;
  auto parameters = trainable(model);
  model.register_buffer("graph", torch::eye(4).to_sparse());
  model.register_buffer("shape", torch::empty({2}, torch::kMeta));
  model.register_parameter("far", torch::empty({2}, torch::kMeta));
  if (!arguments.empty()) parameters = model.parameters();
  torch::optim::SGD sgd(parameters, 0.05);
  Steps dump("steps");
  train(model, sgd, 12, dump);
  return 0;
}

int spare_optimizers(const Arguments&) {
  Net model;
  torch::optim::SGD sgd(model.parameters(), 0.05);
  torch::optim::Adam never_used(model.parameters());
  torch::optim::RMSprop never_stepped(model.parameters());
  Descent own(model.parameters());
  Steps dump("steps");
  for (int i = 0; i < 12; ++i) {
    never_stepped.zero_grad();
    model.zero_grad();
    train(model, sgd, 1, dump);
    save(model, "model.pt");
  }
  return 0;
}

int models(const Arguments&) {
  Net generator, discriminator;
  torch::optim::Adam a(generator.parameters()), b(discriminator.parameters());
  Steps a_dump("a"), b_dump("b");
  for (int i = 0; i < 6; ++i) {
    train(discriminator, b, 1, b_dump);
    train(generator, a, 1, a_dump);
  }
  save(generator, "generator.pt");
  save(discriminator, "discriminator.pt");
  return 0;
}

int folds(const Arguments&) {
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> before(
      torch::Tensor().getIntrusivePtr());
  int kept = 0;
  for (int fold = 1; fold <= 4; ++fold) {
    auto model = std::make_unique<Net>();
    torch::optim::SGD sgd(model->parameters(), 0.05);
    Steps dump("fold" + std::to_string(fold));
    train(*model, sgd, 5, dump);
    kept += fold > 1 && !before.expired() ? 1 : 0;
    before = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>(
        model->first->weight.getIntrusivePtr());
  }
  std::cout << kept << " models kept" << std::endl;
  return 0;
}

int bare_tensors(const Arguments&) {
  auto w = torch::randn({8, 4}, torch::requires_grad());
  auto b = torch::zeros({4}, torch::requires_grad());
  torch::optim::SGD sgd({w, b}, 0.05);
  Steps unused("unused");
  for (int i = 0; i < 5; ++i) {
    const auto x = torch::randn({32, 8});
    sgd.zero_grad();
    (x.mm(w) + b - x.slice(1, 0, 4)).square().mean().backward();
    sgd.step();
  }
  return 0;
}

int script(const Arguments&) {
  torch::jit::Module net("Net");
  net.register_parameter("weight", torch::randn({8, 4}).set_requires_grad(true), false);
  net.register_buffer("scale", torch::ones({1}));
  net.register_parameter("bias", torch::randn({4}).set_requires_grad(false), false);
  net.define("def forward(self, x):\n  return x.mm(self.weight) * self.scale + self.bias\n");
  std::vector<torch::Tensor> parameters;
  for (const auto& parameter : net.parameters()) {
    if (parameter.requires_grad()) parameters.push_back(parameter);
  }
  torch::optim::SGD sgd(parameters, 0.05);
  const auto x = torch::randn({32, 8});
  Steps dump("steps");
  for (int i = 0; i < 5; ++i) {
    net.attr("scale").toTensor().add_(0.125);
    sgd.zero_grad();
    (net.forward({x}).toTensor() - x.slice(1, 0, 4)).square().mean().backward();
    sgd.step();
    dump.add(net);
  }
  const auto before = net.attr("weight").toTensor().clone();
  net.save("script.pt");
  if (!torch::equal(before, net.attr("weight").toTensor())) return 1;
  std::ifstream averaged("script.averaged.pt");
  if (!averaged) return 0;
  auto loaded = torch::jit::load("script.averaged.pt");
  Steps("loaded").add(loaded);
  std::cerr << "averaged differs: " << !torch::equal(loaded.attr("weight").toTensor(), before)
            << ", runs: " << loaded.forward({x}).toTensor().sizes() << std::endl;
  return 0;
}

// ---- files

int streams(const Arguments&) {
  Net model;
  torch::optim::SGD sgd(model.parameters(), 0.05);
  Steps dump("steps");
  train(model, sgd, 5, dump);
  std::ofstream file("program.pt", std::ios::binary);
  torch::serialize::OutputArchive archive;
  model.save(archive);
  archive.save_to(file);
  std::ostringstream text;
  torch::serialize::OutputArchive other;
  sgd.save(other);
  other.save_to(text);
  size_t bytes = 0;
  torch::serialize::OutputArchive third;
  model.save(third);
  third.save_to([&](const void*, size_t size) {
    bytes += size;
    return size;
  });
  std::cout << "wrote " << (bytes > 1000) << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Scenarios all = {
      {"optimizer", optimizer},
      {"load", load},
      {"step_before_zero_grad", step_before_zero_grad},
      {"groups_added_later", groups_added_later},
      {"parts", parts},
      {"new_optimizer_each_epoch", new_optimizer_each_epoch},
      {"new_descent_each_epoch", new_descent_each_epoch},
      {"descent_warms_up", descent_warms_up},
      {"optimizers_in_one_place", optimizers_in_one_place},
      {"models_zero_gradients", models_zero_gradients},
      {"odd_tensors", odd_tensors},
      {"spare_optimizers", spare_optimizers},
      {"models", models},
      {"folds", folds},
      {"bare_tensors", bare_tensors},
      {"script", script},
      {"streams", streams},
  };
  all.merge(scenarios_of_ends());
  torch::manual_seed(1);
  return all.at(argv[1])(Arguments(argv + 2, argv + argc));
}
