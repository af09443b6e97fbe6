// SPDX-License-Identifier: Apache-2.0
// Target networks that the program owns itself: soft updates as in TD3, hard ones as in DQN.
#include <polyak/polyak.h>
#include <torch/torch.h>

#include <cstdio>

namespace {

torch::nn::Sequential make_critic(int64_t inputs, int64_t outputs) {
  return torch::nn::Sequential(torch::nn::Linear(inputs, 16), torch::nn::ReLU(),
                               torch::nn::Linear(16, outputs));
}

double distance(torch::nn::Sequential& a, torch::nn::Sequential& b) {
  double sum = 0;
  for (size_t i = 0; i < a->parameters().size(); ++i) {
    sum += (a->parameters()[i] - b->parameters()[i]).abs().sum().item<double>();
  }
  return sum;
}

// --8<-- [start:follow]
struct Agent {
  Agent() { polyak::soft_update(target, critic, 1); }  // begins as a copy

  double learn(const torch::Tensor& state, const torch::Tensor& next, const torch::Tensor& reward) {
    torch::Tensor wanted;
    {
      const torch::NoGradGuard no_grad;
      wanted = reward + 0.9 * target->forward(next);
    }
    const auto loss = torch::mse_loss(critic->forward(state), wanted);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    follow(0.005);  // target += tau * (critic - target)
    return loss.item<double>();
  }

  torch::nn::Sequential critic = make_critic(3, 1), target = make_critic(3, 1);
  torch::optim::Adam optimizer{critic->parameters(), 1e-3};
  polyak::SoftUpdate follow{target, critic};
};
// --8<-- [end:follow]

}  // namespace

int main() {
  torch::manual_seed(1);
  Agent agent;
  auto q = make_critic(3, 4), q_target = make_critic(3, 4);
  torch::optim::SGD q_optimizer(q->parameters(), 1e-2);
  double loss = 0;
  for (int step = 1; step <= 100; ++step) {
    const auto state = torch::randn({16, 3}), next = torch::randn({16, 3});
    loss = agent.learn(state, next, state.sum(1, /*keepdim=*/true));

    const auto value = state.sum(1) + 0.9 * std::get<0>(q_target->forward(next).max(1)).detach();
    q_optimizer.zero_grad();
    torch::mse_loss(std::get<0>(q->forward(state).max(1)), value).backward();
    q_optimizer.step();
    if (step % 50 == 0) polyak::soft_update(q_target, q, 1);  // a hard update
  }
  std::printf("loss %.3f; the critic's target is %.3f away, DQN's %g right after a copy\n", loss,
              distance(agent.critic, agent.target), distance(q, q_target));
  return 0;
}
