// SPDX-License-Identifier: Apache-2.0
// Two networks and two optimizers in the manner of LibTorch's DCGAN example; the generator is
// averaged:
//   dcgan_two_optimizers averaging.yaml
#include <polyak/polyak.h>
#include <torch/torch.h>

#include <cstdio>

namespace {

/// Points on a circle: the images of this example.
torch::Tensor real_points(int64_t count) {
  const auto angle = torch::rand({count, 1}) * 6.2831853;
  return torch::cat({angle.cos(), angle.sin()}, 1);
}

}  // namespace

int main(int argc, char** argv) {
  const char* config = argc > 1 ? argv[1] : "averaging.yaml";
  const int64_t epochs = 3, batches = 40, batch_size = 32, noise_size = 4;
  torch::manual_seed(1);
  torch::nn::Sequential generator(torch::nn::Linear(noise_size, 32), torch::nn::ReLU(),
                                  torch::nn::Linear(32, 2));
  torch::nn::Sequential discriminator(torch::nn::Linear(2, 32), torch::nn::LeakyReLU(),
                                      torch::nn::Linear(32, 1), torch::nn::Sigmoid());
  const auto options = torch::optim::AdamOptions(2e-3).betas({0.5, 0.9});
  torch::optim::Adam generator_optimizer(generator->parameters(), options);
  torch::optim::Adam discriminator_optimizer(discriminator->parameters(), options);

  // --8<-- [start:loop]
  // One LoopHooks goes with one model and its optimizer: here those of the generator.
  auto loop = polyak::LoopHooksSettings().max_epochs(epochs).epoch_length(batches);
  polyak::LoopHooks hooks(config, generator, loop.optimizer(generator_optimizer));
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    for (int64_t batch = 0; batch < batches; ++batch) {
      discriminator->zero_grad();
      const auto real = discriminator->forward(real_points(batch_size));
      const auto fake_points = generator->forward(torch::randn({batch_size, noise_size}));
      const auto fake = discriminator->forward(fake_points.detach());
      const auto loss_d = torch::binary_cross_entropy(real, torch::full_like(real, 0.9)) +
                          torch::binary_cross_entropy(fake, torch::zeros_like(fake));
      loss_d.backward();
      discriminator_optimizer.step();

      generator->zero_grad();
      const auto judged = discriminator->forward(fake_points);
      const auto loss_g = torch::binary_cross_entropy(judged, torch::ones_like(judged));
      loss_g.backward();
      generator_optimizer.step();
      hooks.after_step();
      hooks.after_iter({{"loss_d", loss_d.item<double>()}, {"loss_g", loss_g.item<double>()}});
    }
    hooks.after_epoch();
    hooks.validate([&] {
      const torch::NoGradGuard no_grad;
      const auto radius = generator->forward(torch::randn({512, noise_size})).norm(2, 1);
      return polyak::Scalars{{"loss_radius", (radius - 1).abs().mean().item<double>()}};
    });
  }
  hooks.after_train();
  // --8<-- [end:loop]
  std::printf("generator's steps: %lld\n", static_cast<long long>(hooks.steps_done()));
  return 0;
}
