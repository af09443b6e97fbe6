// SPDX-License-Identifier: Apache-2.0
// A plain training loop of LibTorch with the ten lines, numbered, that give it YAML's hooks:
//   embed_in_ten_lines averaging.yaml
#include <polyak/polyak.h>  // 1
#include <torch/torch.h>

#include <cstdio>

namespace {

/// Points in 8 dimensions; the class is the largest of the first four.
torch::Tensor labels_of(const torch::Tensor& points) {
  return points.slice(1, 0, 4).argmax(1);
}

double accuracy(torch::nn::Sequential& net) {
  const torch::NoGradGuard no_grad;
  const auto points = torch::linspace(-1, 1, 4096).mul(97).sin().view({512, 8});
  net->eval();
  const auto right = net->forward(points).argmax(1).eq(labels_of(points));
  net->train();
  return 100 * right.to(torch::kDouble).mean().item<double>();
}

}  // namespace

int main(int argc, char** argv) {
  const char* config = argc > 1 ? argv[1] : "averaging.yaml";
  const int64_t epochs = 4, batches = 32;
  torch::manual_seed(1);
  torch::nn::Sequential net(torch::nn::Linear(8, 32), torch::nn::ReLU(), torch::nn::Linear(32, 4));
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.3).momentum(0.9));

  // --8<-- [start:loop]
  auto loop = polyak::LoopHooksSettings().max_epochs(epochs).epoch_length(batches);  // 2
  polyak::LoopHooks hooks(config, net, loop.optimizer(optimizer));                   // 3
  hooks.resume();                                                                    // 4
  while (hooks.progress().epoch < epochs && !hooks.stop_requested()) {               // 5
    for (int64_t batch = 0; batch < batches; ++batch) {
      const auto points = torch::randn({16, 8});
      optimizer.zero_grad();
      const auto loss = torch::cross_entropy_loss(net->forward(points), labels_of(points));
      loss.backward();
      optimizer.step();
      hooks.after_step();                                 // 6
      hooks.after_iter({{"loss", loss.item<double>()}});  // 7
    }
    hooks.after_epoch();                                                           // 8
    hooks.validate([&] { return polyak::Scalars{{"accuracy", accuracy(net)}}; });  // 9
  }
  hooks.after_train();  // 10
  // --8<-- [end:loop]

  double sum = 0;
  for (const auto& parameter : net->parameters()) sum += parameter.abs().sum().item<double>();
  std::printf("raw weights: accuracy %.2f, sum of their sizes %.17g\n", accuracy(net), sum);
  return 0;
}
