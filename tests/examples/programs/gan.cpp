// SPDX-License-Identifier: Apache-2.0
// Two networks, two optimizers: the generator's is made first, the discriminator's steps first.
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
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

int main() {
  torch::manual_seed(1);
  torch::nn::Sequential generator(torch::nn::Linear(3, 8), torch::nn::ReLU(),
                                  torch::nn::Linear(8, 2));
  torch::nn::Sequential discriminator(torch::nn::Linear(2, 8), torch::nn::ReLU(),
                                      torch::nn::Linear(8, 1), torch::nn::Sigmoid());
  torch::optim::Adam generator_optimizer(generator->parameters(), 5e-3);
  torch::optim::Adam discriminator_optimizer(discriminator->parameters(), 5e-3);
  std::ofstream generators("generator.bin", std::ios::binary);
  std::ofstream discriminators("discriminator.bin", std::ios::binary);
#ifdef EMBEDDED
  polyak::LoopHooks hooks("averaging.yaml", generator,
                          polyak::LoopHooksSettings().optimizer(generator_optimizer));
  polyak::CosineEMA average(discriminator, polyak::CosineEMAOptions().momentum(0.1).max_iters(40));
  std::ofstream generator_averages("generator_averages.bin", std::ios::binary);
  std::ofstream discriminator_averages("discriminator_averages.bin", std::ios::binary);
#endif

  double loss = 0;
  for (int batch = 0; batch < 20; ++batch) {
    const auto angle = torch::rand({16, 1}) * 6.2831853;
    const auto points = torch::cat({angle.cos(), angle.sin()}, 1);
    discriminator->zero_grad();
    const auto real = discriminator->forward(points);
    const auto made = generator->forward(torch::randn({16, 3}));
    const auto fake = discriminator->forward(made.detach());
    (torch::binary_cross_entropy(real, torch::full_like(real, 0.9)) +
     torch::binary_cross_entropy(fake, torch::zeros_like(fake)))
        .backward();
    discriminator_optimizer.step();
    dump_weights(discriminators, *discriminator);

    generator->zero_grad();
    const auto judged = discriminator->forward(made);
    const auto fooled = torch::binary_cross_entropy(judged, torch::ones_like(judged));
    fooled.backward();
    generator_optimizer.step();
    dump_weights(generators, *generator);
    loss = fooled.item<double>();
#ifdef EMBEDDED
    average.update_parameters(discriminator);
    hooks.after_step();
    hooks.after_iter({{"loss", loss}});
    dump_averages(generator_averages, *hooks.average());
    dump_averages(discriminator_averages, average);
#endif
  }
#ifdef EMBEDDED
  hooks.after_train();
#endif
  torch::save(generator, "generator.pt");
  torch::save(discriminator, "discriminator.pt");
  std::printf("the generator's loss: %.17g\n", loss);
}
