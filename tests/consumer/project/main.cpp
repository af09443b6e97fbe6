// SPDX-License-Identifier: Apache-2.0
#include <polyak/averaging/averaged_model.h>
#include <polyak/config/load.h>
#include <polyak/core/error.h>
#include <polyak/core/log.h>
#include <polyak/polyak.h>
#include <polyak/version.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/version.h>

#include <cstdio>
#include <string>

// A training loop of a user's own, with the lines that averaging takes.
bool averages() {
  torch::nn::Linear net(4, 1);
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  constexpr int kSteps = 20;
  polyak::CosineEMA ema(net, polyak::CosineEMAOptions().momentum(0.1).max_iters(kSteps));
  const at::Tensor input = at::randn({32, 4});
  for (int step = 0; step < kSteps; ++step) {
    optimizer.zero_grad();
    (net(input) - input.sum(1, true)).pow(2).mean().backward();
    optimizer.step();
    ema.update_parameters(net);
  }
  const at::Tensor raw = net->weight.detach().clone();
  bool swapped = false;
  {
    auto guard = ema.swap(net);
    swapped =
        at::equal(net->weight, ema.named_averages()["weight"]) && !at::equal(net->weight, raw);
  }
  return swapped && at::equal(net->weight, raw) && ema.steps() == kSteps;
}

// The installed hooks are found beside the installed library.
bool takes_hooks_from_yaml() {
  torch::nn::Linear net(2, 1);
  auto hooks = polyak::LoopHooks::from_config(
      polyak::parse_config("custom_hooks: [{type: EMAHook, momentum: 0.25}]"), net);
  const at::Tensor raw = net->weight.detach().clone();
  for (int step = 0; step < 2; ++step) {
    net->weight.detach().add_(4);
    hooks.after_step();
    hooks.after_iter();
  }
  bool averaged = false;
  hooks.validate([&] {
    averaged = at::allclose(net->weight, raw + 5);  // 4 + (8 - 4) / 4
    return polyak::Scalars();
  });
  hooks.after_train();
  return averaged && at::allclose(net->weight, raw + 8);
}

int main() {
  if (!averages()) return 4;
  if (!takes_hooks_from_yaml()) return 5;
  std::string heard;
  polyak::set_log_sink([&](polyak::LogLevel, std::string_view message) { heard = message; });
  polyak::log_info("threads: {}", at::get_num_threads());
  if (heard.rfind("threads: ", 0) != 0) return 1;

  try {
    polyak::fail<polyak::ConfigError>("momentum is {}", at::ones({2}).sum().item<double>());
  } catch (const polyak::Error& error) {
    std::printf("polyak %s with LibTorch %s: %s\n", POLYAK_VERSION, TORCH_VERSION, error.what());
    return std::string(error.what()) == "momentum is 2" ? 0 : 2;
  }
  return 3;
}
