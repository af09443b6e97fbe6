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

}  // namespace

int main(int /*argc*/, char** argv) {
  const std::map<std::string, std::function<int()>> all = {
      {"in_place", in_place},
      {"same_values", same_values},
      {"other_values", other_values},
      {"set_data", set_data},
      {"turns", turns},
  };
  torch::manual_seed(1);
  return all.at(argv[1])();
}
