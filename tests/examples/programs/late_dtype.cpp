// SPDX-License-Identifier: Apache-2.0
// An agent that makes its members in the constructor's list, and a caller who wants float64 later.
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <cstdio>

#include "attach/weights_dump.h"
#ifdef EMBEDDED
#include <polyak/polyak.h>

#include "averages_dump.h"
#endif

namespace {

struct NetImpl : torch::nn::Cloneable<NetImpl> {
  NetImpl() { NetImpl::reset(); }
  void reset() override {
    first = register_module("first", torch::nn::Linear(3, 8));
    second = register_module("second", torch::nn::Linear(8, 1));
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::relu(first(x))); }

  torch::nn::Linear first{nullptr}, second{nullptr};
};
TORCH_MODULE(Net);

struct Agent {
  Net net;
  torch::optim::Adam optimizer{net->parameters(), torch::optim::AdamOptions(5e-3)};
#ifdef EMBEDDED
  polyak::CosineEMA average{net, polyak::CosineEMAOptions().momentum(0.1).max_iters(40)};
#endif
};

}  // namespace

int main() {
  torch::manual_seed(1);
  Agent agent;
  agent.net->to(torch::kFloat64);
  std::ofstream weights("net.bin", std::ios::binary);
#ifdef EMBEDDED
  std::ofstream averages("net_averages.bin", std::ios::binary);
#endif

  double loss = 0;
  for (int step = 0; step < 20; ++step) {
    const auto x = torch::randn({16, 3}, torch::kFloat64);
    const auto error = torch::mse_loss(agent.net(x), x.sum(1, /*keepdim=*/true).sin());
    agent.optimizer.zero_grad();
    error.backward();
    agent.optimizer.step();
    dump_weights(weights, *agent.net);
    loss = error.item<double>();
#ifdef EMBEDDED
    agent.average.update_parameters(agent.net);
    dump_averages(averages, agent.average);
#endif
  }
  torch::save(agent.net, "net.pt");
  std::printf("the loss: %.17g\n", loss);
}
