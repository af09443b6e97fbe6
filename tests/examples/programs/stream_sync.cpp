// SPDX-License-Identifier: Apache-2.0
// DQN's form: the target is synced through torch::save and torch::load over a stream in memory.
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <cstdio>
#include <sstream>

#include "attach/weights_dump.h"
#ifdef EMBEDDED
#include <polyak/polyak.h>

#include "averages_dump.h"
#endif

namespace {

struct QNetImpl : torch::nn::Module {
  QNetImpl() {
    register_module("first", first);
    register_module("second", second);
  }
  torch::Tensor forward(const torch::Tensor& x) { return second(torch::relu(first(x))); }

  torch::nn::Linear first{4, 8}, second{8, 3};
};
TORCH_MODULE(QNet);

void sync(QNet& target, const QNet& online) {
  std::stringstream stream;
  torch::save(online, stream);
  torch::load(target, stream);
}

}  // namespace

int main() {
  torch::manual_seed(1);
  QNet online, target;
  sync(target, online);
  torch::optim::Adam optimizer(online->parameters(), 3e-3);
  std::ofstream weights("online.bin", std::ios::binary);
#ifdef EMBEDDED
  polyak::LoopHooks hooks("averaging.yaml", online,
                          polyak::LoopHooksSettings().max_iters(40).optimizer(optimizer));
  std::ofstream averages("online_averages.bin", std::ios::binary);
#endif

  double loss = 0;
  for (int step = 0; step < 40; ++step) {
    const auto state = torch::randn({16, 4}), next = torch::randn({16, 4});
    const auto action = torch::randint(3, {16, 1}, torch::kLong);
    const auto reward = state.gather(1, action);
    torch::Tensor wanted;
    {
      const torch::NoGradGuard no_grad;
      wanted = reward + 0.9 * std::get<0>(target(next).max(1, /*keepdim=*/true));
    }
    optimizer.zero_grad();
    const auto error = torch::mse_loss(online(state).gather(1, action), wanted);
    error.backward();
    optimizer.step();
    dump_weights(weights, *online);
    loss = error.item<double>();
#ifdef EMBEDDED
    hooks.after_step();
    hooks.after_iter({{"loss", loss}});
    dump_averages(averages, *hooks.average());
#endif
    if (step % 5 == 4) sync(target, online);
  }
#ifdef EMBEDDED
  hooks.after_train();
#endif
  torch::save(online, "online.pt");
  torch::save(target, "target.pt");
  std::printf("the loss: %.17g\n", loss);
}
