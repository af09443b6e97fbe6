// SPDX-License-Identifier: Apache-2.0
// What loop_optimizers.py needs of this side: a training loop with LoopHooks.
//   loop_tool VARIANT WORK_DIR ITERS
//                      trains a linear layer in double precision, saves each iteration, and resumes
//                      if WORK_DIR has a checkpoint. VARIANT is a name of optimizer_of(). The
//                      weight and the bias have a group each; only the weight decays. What is
//                      logged goes to stderr.
#include <ATen/ATen.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "polyak/config/load.h"
#include "polyak/core/error.h"
#include "polyak/embed/loop_hooks.h"

namespace {

using namespace torch::optim;

template <class Torch, class Options>
std::unique_ptr<Optimizer> make(torch::nn::Linear& net, const Options& options, double decay) {
  auto made = std::make_unique<Torch>(
      std::vector<OptimizerParamGroup>{{{net->weight}}, {{net->bias}}}, options);
  static_cast<Options&>(made->param_groups()[0].options()).weight_decay(decay);
  static_cast<Options&>(made->param_groups()[1].options()).weight_decay(0);
  return made;
}

std::unique_ptr<Optimizer> optimizer_of(const std::string& variant, torch::nn::Linear& net) {
  if (variant == "SGD") return make<SGD>(net, SGDOptions(0.05), 0.1);
  if (variant == "SGD momentum") {
    return make<SGD>(net, SGDOptions(0.05).momentum(0.9).dampening(0.1), 0.1);
  }
  if (variant == "SGD nesterov") {
    return make<SGD>(net, SGDOptions(0.05).momentum(0.9).nesterov(true), 0);
  }
  if (variant == "Adam") return make<Adam>(net, AdamOptions(0.05).betas({0.8, 0.95}), 0.1);
  if (variant == "Adam amsgrad") return make<Adam>(net, AdamOptions(0.05).amsgrad(true), 0);
  if (variant == "AdamW") return make<AdamW>(net, AdamWOptions(0.05).eps(1e-6), 0.1);
  if (variant == "RMSprop") return make<RMSprop>(net, RMSpropOptions(0.05).alpha(0.9), 0.1);
  if (variant == "RMSprop centered") {
    return make<RMSprop>(net, RMSpropOptions(0.05).momentum(0.5).centered(true), 0);
  }
  if (variant == "Adagrad") {
    return make<Adagrad>(net, AdagradOptions(0.05).lr_decay(0.1).initial_accumulator_value(0.2),
                         0.1);
  }
  polyak::fail("no variant '{}'", variant);
}

/// Numbers that both sides compute exactly: arange(count) * factor % 11 / 8 - 0.5.
at::Tensor numbers(int64_t rows, int64_t columns, int64_t factor) {
  return (at::arange(rows * columns, at::kDouble) * factor)
      .remainder(11)
      .div(8)
      .sub(0.5)
      .view({rows, columns});
}

void train(const std::string& variant, const std::string& work_dir, int64_t iters) {
  torch::nn::Linear net(3, 2);
  net->to(at::kDouble);
  {
    const torch::NoGradGuard no_grad;
    net->weight.copy_(numbers(2, 3, 5));
    net->bias.zero_();
  }
  const at::Tensor inputs = numbers(6, 3, 7), targets = numbers(6, 2, 3);
  const std::unique_ptr<Optimizer> optimizer = optimizer_of(variant, net);
  auto hooks = polyak::LoopHooks::from_config(
      polyak::parse_config(
          "{work_dir: " + work_dir +
          ", custom_hooks: [{type: CheckpointHook, by_epoch: false, interval: 1}]}"),
      net, polyak::LoopHooksSettings().optimizer(*optimizer).max_iters(iters));
  hooks.resume();
  while (hooks.progress().iter < iters) {
    optimizer->zero_grad();
    torch::nn::functional::mse_loss(net(inputs), targets).backward();
    optimizer->step();
    hooks.after_step();
    hooks.after_iter();
  }
  hooks.after_train();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    train(argv[1], argv[2], std::atoll(argv[3]));
  } catch (const polyak::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
