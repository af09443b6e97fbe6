// SPDX-License-Identifier: Apache-2.0
// TD3's form: an agent that makes its members in the constructor's list, two critics of one
// architecture with an optimizer each, and targets that are updated by hand at every other step.
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <cstdio>
#include <memory>

#include "attach/weights_dump.h"
#ifdef EMBEDDED
#include <polyak/polyak.h>

#include "averages_dump.h"
#endif

namespace {

constexpr double kTau = 0.05;

struct NetImpl : torch::nn::Module {
  NetImpl(int64_t in, int64_t out) : first(in, 8), second(8, out) {
    register_module("first", first);
    register_module("second", second);
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::relu(first(x))); }

  torch::nn::Linear first, second;
};
TORCH_MODULE(Net);

void copy_weights(Net& to, const Net& from) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < from->parameters().size(); ++i) {
    to->parameters()[i].copy_(from->parameters()[i]);
  }
}

void soft_update(Net& target, const Net& online) {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < online->parameters().size(); ++i) {
    torch::Tensor value = target->parameters()[i];
    value.mul_(1 - kTau).add_(online->parameters()[i], kTau);
  }
}

class Agent {
 public:
  Agent()
      : actor_(3, 2),
        actor_target_(3, 2),
        critic_1_(5, 1),
        critic_1_target_(5, 1),
        critic_2_(5, 1),
        critic_2_target_(5, 1),
        actor_optimizer_(actor_->parameters(), 3e-3),
        critic_1_optimizer_(critic_1_->parameters(), 3e-3),
        critic_2_optimizer_(critic_2_->parameters(), 3e-3)
#ifdef EMBEDDED
        ,
        actor_average_(actor_, kOptions),
        critic_average_(critic_2_, kOptions)
#endif
  {
    copy_weights(actor_target_, actor_);
    copy_weights(critic_1_target_, critic_1_);
    copy_weights(critic_2_target_, critic_2_);
#ifdef EMBEDDED
    actor_average_.update_parameters(actor_);  // the first update copies, as the targets do
    critic_average_.update_parameters(critic_2_);
#endif
  }

  double learn(int step) {
    const auto state = torch::randn({16, 3}), next = torch::randn({16, 3});
    const auto action = torch::tanh(torch::randn({16, 2}));
    const auto reward = -(action - state.slice(1, 0, 2)).square().sum(1, true);
    torch::Tensor wanted;
    {
      const torch::NoGradGuard no_grad;
      const auto noise = torch::randn({16, 2}).mul(0.2).clamp(-0.5, 0.5);
      const auto input = torch::cat({next, torch::tanh(actor_target_(next)) + noise}, 1);
      wanted = reward + 0.9 * torch::min(critic_1_target_(input), critic_2_target_(input));
    }
    const auto seen = torch::cat({state, action}, 1);
    const auto loss_1 = torch::mse_loss(critic_1_(seen), wanted);
    critic_1_optimizer_.zero_grad();
    loss_1.backward();
    critic_1_optimizer_.step();
    const auto loss_2 = torch::mse_loss(critic_2_(seen), wanted);
    critic_2_optimizer_.zero_grad();
    loss_2.backward();
    critic_2_optimizer_.step();
    if (step % 2 == 1) {
      actor_optimizer_.zero_grad();
      (-critic_1_(torch::cat({state, torch::tanh(actor_(state))}, 1)).mean()).backward();
      actor_optimizer_.step();
      soft_update(actor_target_, actor_);
      soft_update(critic_1_target_, critic_1_);
      soft_update(critic_2_target_, critic_2_);
      dump_weights(actors_, *actor_);
      dump_weights(actor_targets_, *actor_target_);
      dump_weights(critics_, *critic_2_);
      dump_weights(critic_targets_, *critic_2_target_);
#ifdef EMBEDDED
      actor_average_.update_parameters(actor_);
      critic_average_.update_parameters(critic_2_);
      dump_averages(actor_averages_, actor_average_);
      dump_averages(critic_averages_, critic_average_);
#endif
    }
    return loss_1.item<double>() + loss_2.item<double>();
  }

  void save() const {
    torch::save(actor_, "actor.pt");
    torch::save(critic_1_, "critic_1.pt");
    torch::save(critic_2_, "critic_2.pt");
    torch::save(critic_2_target_, "critic_2_target.pt");
  }

 private:
  Net actor_, actor_target_, critic_1_, critic_1_target_, critic_2_, critic_2_target_;
  torch::optim::Adam actor_optimizer_, critic_1_optimizer_, critic_2_optimizer_;
  std::ofstream actors_{"actor.bin", std::ios::binary};
  std::ofstream actor_targets_{"actor_target.bin", std::ios::binary};
  std::ofstream critics_{"critic_2.bin", std::ios::binary};
  std::ofstream critic_targets_{"critic_2_target.bin", std::ios::binary};
#ifdef EMBEDDED
  static inline const polyak::ExponentialMovingAverageOptions kOptions =
      polyak::ExponentialMovingAverageOptions().momentum(kTau);
  polyak::ExponentialMovingAverage actor_average_, critic_average_;
  std::ofstream actor_averages_{"actor_averages.bin", std::ios::binary};
  std::ofstream critic_averages_{"critic_2_averages.bin", std::ios::binary};
#endif
};

}  // namespace

int main() {
  torch::manual_seed(1);
  Agent agent;
  double loss = 0;
  for (int step = 0; step < 30; ++step) loss = agent.learn(step);
  agent.save();
  std::printf("the critics' loss: %.17g\n", loss);
}
