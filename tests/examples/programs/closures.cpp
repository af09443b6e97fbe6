// SPDX-License-Identifier: Apache-2.0
// An optimizer that calls the loop's closure several times in a step.
#include <torch/nn/modules/linear.h>
#include <torch/optim/lbfgs.h>
#include <torch/serialize.h>
#include <torch/utils.h>

#include <cstdio>

#include "attach/weights_dump.h"
#ifdef EMBEDDED
#include <polyak/polyak.h>

#include "averages_dump.h"
#endif

int main() {
  torch::manual_seed(1);
  torch::nn::Linear first(2, 8), second(8, 1);
  torch::nn::Module model;
  model.register_module("first", first.ptr());
  model.register_module("second", second.ptr());
  torch::optim::LBFGS optimizer(model.parameters(), torch::optim::LBFGSOptions(0.3).max_iter(4));
  std::ofstream weights("model.bin", std::ios::binary);
#ifdef EMBEDDED
  polyak::LoopHooks hooks("averaging.yaml", model,
                          polyak::LoopHooksSettings().max_iters(12).optimizer(optimizer));
  std::ofstream averages("model_averages.bin", std::ios::binary);
#endif

  int evaluations = 0;
  double loss = 0;
  for (int step = 0; step < 12; ++step) {
    const auto x = torch::randn({32, 2});
    const auto wanted = x.square().sum(1, /*keepdim=*/true);
    const auto error = optimizer.step([&] {
      ++evaluations;
      optimizer.zero_grad();
      const auto miss = torch::mse_loss(second(torch::tanh(first(x))), wanted);
      miss.backward();
      return miss;
    });
    dump_weights(weights, model);
    loss = error.item<double>();
#ifdef EMBEDDED
    hooks.after_step();
    hooks.after_iter({{"loss", loss}});
    dump_averages(averages, *hooks.average());
#endif
  }
#ifdef EMBEDDED
  hooks.after_train();
#endif
  torch::serialize::OutputArchive archive;
  model.save(archive);
  archive.save_to("model.pt");
  std::printf("%d evaluations, the loss: %.17g\n", evaluations, loss);
}
