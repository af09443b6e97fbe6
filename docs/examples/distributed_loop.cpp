// SPDX-License-Identifier: Apache-2.0
// A training loop of one's own in several processes. Start it once for each of them:
//
//     torchrun --nproc-per-node 2 --no-python ./distributed_loop averaging.yaml
//
// or by hand, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment. A program that
// has a c10d::ProcessGroup already passes polyak::wrap_c10d(group) instead of joining.
#include <polyak/averaging/averaged_model.h>
#include <polyak/distributed/gradient_reducer.h>
#include <polyak/distributed/process_group.h>
#include <polyak/embed/loop_hooks.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdio>

namespace {

constexpr int64_t kSteps = 200;
constexpr int64_t kBatch = 16;  // samples of each process

struct Net : torch::nn::Cloneable<Net> {
  Net() { Net::reset(); }
  void reset() override {
    hidden = register_module("hidden", torch::nn::Linear(2, 32));
    out = register_module("out", torch::nn::Linear(32, 1));
  }
  torch::Tensor forward(const torch::Tensor& x) { return out(torch::tanh(hidden(x))); }
  torch::nn::Linear hidden{nullptr}, out{nullptr};
};

void run(const std::string& config) {
  const auto processes = polyak::join_processes(polyak::find_placement(polyak::Launcher::pytorch),
                                                std::chrono::seconds(60));
  torch::manual_seed(1);  // the same weights everywhere
  Net net;
  torch::optim::SGD optimizer(net.parameters(), torch::optim::SGDOptions(0.1));
  const polyak::ModelRef model(net);
  const auto reducer = polyak::make_gradient_reducer(processes, model.tensors(), {});

  polyak::LoopHooks hooks(config, model,
                          polyak::LoopHooksSettings()
                              .max_iters(kSteps)
                              .batch_size(kBatch * processes->size())
                              .optimizer(optimizer)
                              .process_group(processes));
  hooks.resume();
  // Each process draws samples of its own, which depend on the step only.
  while (hooks.progress().iter < kSteps && !hooks.stop_requested()) {
    torch::manual_seed(1000 * (1 + processes->rank()) + hooks.progress().iter);
    const torch::Tensor x = torch::rand({kBatch, 2}) * 2 - 1;
    const torch::Tensor y = x.select(1, 0) * x.select(1, 1);
    reducer->forward();
    const torch::Tensor loss = (net.forward(x).squeeze(1) - y).square().mean();
    optimizer.zero_grad();
    reducer->backward(loss, /*reduce=*/true);
    optimizer.step();
    hooks.after_step();
    hooks.after_iter({{"loss", loss.item<double>()}});
  }
  hooks.after_train();

  // Whole in every process, whatever part of it each has kept.
  double sum = 0;
  for (const auto& item : hooks.average()->named_averages()) {
    sum += item.value().abs().sum().item<double>();
  }
  std::printf("rank %d: %d steps, averaged weights with the sum of their sizes %.17g\n",
              static_cast<int>(processes->rank()), static_cast<int>(hooks.progress().iter), sum);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc != 2) throw std::runtime_error("usage: distributed_loop CONFIG");
    run(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
