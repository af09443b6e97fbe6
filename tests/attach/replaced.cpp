// SPDX-License-Identifier: Apache-2.0
// Programs whose optimizers get other tensors.
//
// replaced NAME: files are written to the current folder.
#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

using torch::Tensor;
using Optimizers = std::vector<std::unique_ptr<torch::optim::Optimizer>>;

Tensor& place(torch::optim::Optimizer& optimizer) {
  return optimizer.param_groups()[0].params()[0];
}

/// Every element goes down by 1.
void step(torch::optim::Optimizer& optimizer) {
  optimizer.zero_grad();
  place(optimizer).sum().backward();
  optimizer.step();
}

std::unique_ptr<torch::optim::Optimizer> sgd(const Tensor& tensor) {
  return std::make_unique<torch::optim::SGD>(std::vector<Tensor>{tensor}, 1.0);
}

Tensor leaf(const Tensor& values) {
  return values.detach().clone().set_requires_grad(true);
}

/// Two optimizers of equal shapes; rows are added four times, and saved at once.
int in_place() {
  Optimizers optimizers;
  for (const double start : {10.0, 20.0}) optimizers.push_back(sgd(leaf(torch::full({3}, start))));
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 2; ++i) {
      for (auto& optimizer : optimizers) step(*optimizer);
    }
    if (round == 4) break;
    for (auto& optimizer : optimizers) {
      place(*optimizer) = leaf(torch::cat({place(*optimizer), place(*optimizer).slice(0, 0, 1)}));
    }
    torch::save(std::vector<Tensor>{place(*optimizers[0]), place(*optimizers[1])},
                "points-" + std::to_string(round) + ".pt");
  }
  return 0;
}

/// Four steps from 10 to 6, and another tensor with the same values; one more step.
int same_values() {
  const auto optimizer = sgd(leaf(torch::full({3}, 10.0)));
  for (int i = 0; i < 4; ++i) step(*optimizer);
  place(*optimizer) = leaf(place(*optimizer));
  step(*optimizer);
  torch::save(place(*optimizer), "points.pt");
  return 0;
}

/// The same shape, other values: rows in another order.
int other_values() {
  const auto optimizer = sgd(leaf(torch::arange(3.0)));
  for (int i = 0; i < 4; ++i) step(*optimizer);
  place(*optimizer) = leaf(place(*optimizer).flip(0));
  step(*optimizer);
  torch::save(place(*optimizer), "points.pt");
  return 0;
}

/// The tensor stays, what it holds gets longer.
int set_data() {
  const Tensor points = leaf(torch::full({3}, 10.0));
  const auto optimizer = sgd(points);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 2; ++i) step(*optimizer);
    points.mutable_grad().reset();
    points.set_data(torch::cat({points.detach(), torch::ones({1})}));
  }
  step(*optimizer);
  torch::save(points, "points.pt");
  return 0;
}

/// One optimizer for two models in turn, which are both still there.
int turns() {
  torch::nn::Linear a(2, 2), b(2, 2);
  torch::optim::SGD optimizer(a->parameters(), 0.1);
  for (int i = 0; i < 6; ++i) {
    auto& model = i % 2 ? b : a;
    optimizer.param_groups()[0].params() = model->parameters();
    model->zero_grad();
    model->forward(torch::ones({1, 2})).sum().backward();
    optimizer.step();
  }
  torch::save(a, "a.pt");
  torch::save(b, "b.pt");
  return 0;
}

/// Every parameter of a model goes down by 1.
void step_model(torch::nn::Module& model, torch::optim::Optimizer& optimizer) {
  optimizer.zero_grad();
  Tensor loss = torch::zeros({});
  for (const Tensor& parameter : model.parameters()) {
    if (parameter.requires_grad()) loss = loss + parameter.sum();
  }
  loss.backward();
  optimizer.step();
}

void fill(torch::nn::Module& model, double value) {
  const torch::NoGradGuard no_grad;
  for (const Tensor& parameter : model.parameters()) parameter.fill_(value);
}

/// A body and a head of one number each, and a list of layers.
struct Net : torch::nn::Module {
  Net() {
    body = register_module("body", torch::nn::Linear(torch::nn::LinearOptions(1, 1).bias(false)));
    head = register_module("head", torch::nn::Linear(torch::nn::LinearOptions(1, 1).bias(false)));
    fill(*this, 10);
  }
  void drop(const std::string& name) { parameters_.erase(name); }
  torch::nn::Linear body{nullptr}, head{nullptr};
};

torch::nn::Linear layer(int64_t in, int64_t out, double value) {
  torch::nn::Linear made(torch::nn::LinearOptions(in, out).bias(false));
  fill(*made, value);
  return made;
}

/// Four steps, `change`, and two steps with an optimizer for what the model has then.
int layers(const std::function<void(Net&)>& change) {
  const auto net = std::make_shared<Net>();
  auto optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), 1.0);
  for (int i = 0; i < 4; ++i) step_model(*net, *optimizer);
  optimizer.reset();
  change(*net);
  optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), 1.0);
  for (int i = 0; i < 2; ++i) step_model(*net, *optimizer);
  torch::save(net, "net.pt");
  return 0;
}

/// Another head under its name, of another size: the old one goes.
int new_head() {
  return layers([](Net& net) { net.head = net.replace_module("head", layer(1, 2, 30)); });
}

/// A head under another name.
int other_head() {
  return layers([](Net& net) {
    net.head = nullptr;
    net.unregister_module("head");
    net.register_module("classifier", layer(1, 1, 30));
  });
}

/// Low-rank layers beside the body's weight.
int lora() {
  return layers([](Net& net) { net.body->register_module("lora", layer(1, 1, 30)); });
}

/// The head is merged into the body, and goes.
int merged() {
  return layers([](Net& net) {
    const torch::NoGradGuard no_grad;
    net.body->weight.add_(net.head->weight);
    net.head = nullptr;
    net.unregister_module("head");
  });
}

/// The weight gets another name and a mask.
int pruned() {
  return layers([](Net& net) {
    const auto masked = std::make_shared<torch::nn::Module>("Masked");
    masked->register_parameter("weight_orig", net.body->weight);
    masked->register_buffer("weight_mask", torch::ones({1, 1}));
    net.body = nullptr;
    net.replace_module("body", masked);
  });
}

/// An embedding with more rows.
int embedding() {
  return layers([](Net& net) {
    net.replace_module("head", torch::nn::Embedding(3, 2));
    net.head = nullptr;
    fill(*net.named_children()["head"], 30);
  });
}

/// A frozen body, and then not.
int frozen() {
  const auto net = std::make_shared<Net>();
  torch::optim::SGD optimizer(net->parameters(), 1.0);
  for (int i = 0; i < 4; ++i) step_model(*net, optimizer);
  net->body->weight.requires_grad_(false);
  net->body->weight.mutable_grad().reset();
  for (int i = 0; i < 2; ++i) step_model(*net, optimizer);
  net->body->weight.requires_grad_(true);
  for (int i = 0; i < 2; ++i) step_model(*net, optimizer);
  torch::save(net, "net.pt");
  return 0;
}

/// Two names for a tensor, and then two tensors.
int untied() {
  const auto net = std::make_shared<Net>();
  net->register_parameter("output", net->body->weight);
  auto optimizer = std::make_unique<torch::optim::SGD>(
      std::vector<Tensor>{net->body->weight, net->head->weight}, 1.0);
  net->parameters();
  for (int i = 0; i < 4; ++i) step_model(*net, *optimizer);
  net->drop("output");
  net->register_parameter("output", torch::full({1, 1}, 30.0));
  optimizer = std::make_unique<torch::optim::SGD>(net->parameters(), 1.0);
  for (int i = 0; i < 2; ++i) step_model(*net, *optimizer);
  torch::save(net, "net.pt");
  return 0;
}

}  // namespace

int main(int /*argc*/, char** argv) {
  const std::map<std::string, std::function<int()>> all = {
      {"in_place", in_place},
      {"same_values", same_values},
      {"other_values", other_values},
      {"set_data", set_data},
      {"turns", turns},
      {"new_head", new_head},
      {"other_head", other_head},
      {"lora", lora},
      {"merged", merged},
      {"pruned", pruned},
      {"embedding", embedding},
      {"frozen", frozen},
      {"untied", untied},
  };
  torch::manual_seed(1);
  return all.at(argv[1])();
}
