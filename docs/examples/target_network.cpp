// SPDX-License-Identifier: Apache-2.0
// Target networks in the manner of TD3: averages that the program itself trains with.
#include <polyak/polyak.h>
#include <torch/torch.h>

#include <cstdio>

namespace {

/// No torch::nn::Cloneable: it makes its layers in the constructor's list.
struct CriticImpl : torch::nn::Module {
  CriticImpl() : first(3, 16), second(16, 1) {
    register_module("first", first);
    register_module("second", second);
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::relu(first(x))); }

  torch::nn::Linear first, second;
};
TORCH_MODULE(Critic);

// --8<-- [start:target]
struct Agent {
  Agent() { target.update_parameters(critic); }  // the first update copies

  double learn(const torch::Tensor& state, const torch::Tensor& next, const torch::Tensor& reward) {
    torch::Tensor wanted;
    {
      const torch::NoGradGuard no_grad;
      wanted = reward + 0.9 * target.module<CriticImpl>()->forward(next);
    }
    const auto loss = torch::mse_loss(critic(state), wanted);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    target.update_parameters(critic);  // target += tau * (critic - target)
    return loss.item<double>();
  }

  Critic critic;
  torch::optim::Adam optimizer{critic->parameters(), 1e-3};
  polyak::ExponentialMovingAverage target{
      critic, polyak::ExponentialMovingAverageOptions().momentum(0.005),  // tau
      [] { return std::make_shared<CriticImpl>(); }};
};
// --8<-- [end:target]

}  // namespace

int main() {
  torch::manual_seed(1);
  Agent agent;
  agent.critic->to(torch::kFloat64);  // the target follows
  double loss = 0;
  for (int step = 0; step < 100; ++step) {
    const auto state = torch::randn({16, 3}, torch::kFloat64);
    const auto next = torch::randn({16, 3}, torch::kFloat64);
    loss = agent.learn(state, next, state.sum(1, /*keepdim=*/true));
  }
  std::printf("loss %.3f after %lld updates of the target\n", loss,
              static_cast<long long>(agent.target.steps()));
  return 0;
}
