// SPDX-License-Identifier: Apache-2.0
// A program that is linked to Polyak and yaml-cpp itself: what the preloaded library has of both
// must not meet them.
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>
#include <yaml-cpp/yaml.h>

#include <cstdio>

#include "polyak/averaging/averages.h"

int main() {
  torch::manual_seed(1);
  const YAML::Node node = YAML::Load("{momentum: 0.25, steps: [1, 2, 3]}");
  torch::nn::Linear model(3, 2);
  torch::optim::SGD sgd(model->parameters(), 0.1);
  polyak::CosineEMA ema(
      model, polyak::CosineEMAOptions().momentum(node["momentum"].as<double>()).max_iters(10));
  for (const YAML::Node& step : node["steps"]) {
    sgd.zero_grad();
    model->forward(torch::ones({4, 3})).square().mean().backward();
    sgd.step();
    ema.update_parameters(model);
    std::printf("%d %.9g\n", step.as<int>(), ema.named_averages()["weight"].sum().item<double>());
  }
  try {
    YAML::Load("{a: [1");
  } catch (const YAML::Exception& error) {  // thrown and caught by the same copy
    std::printf("%s\n", error.what());
  }
}
