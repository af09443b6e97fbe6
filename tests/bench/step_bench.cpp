// SPDX-License-Identifier: Apache-2.0
// What averaging adds to a step of training.
#include <ATen/ATen.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include "bench/averaging_ways.h"
#include "bench/benchmarks.h"
#include "bench/race.h"
#include "polyak/trainer/target_network.h"
#include "support/fake_runner.h"

namespace polyak::bench {
namespace {

struct Mlp : torch::nn::Cloneable<Mlp> {
  explicit Mlp(int64_t width) : width(width) { reset(); }
  void reset() override {
    first = register_module("first", torch::nn::Linear(width, 4 * width));
    second = register_module("second", torch::nn::Linear(4 * width, 4 * width));
    third = register_module("third", torch::nn::Linear(4 * width, width));
  }
  at::Tensor forward(const at::Tensor& input) {
    return third(at::relu(second(at::relu(first(input)))));
  }
  int64_t width;
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
};

/// Moves the parameters into one array, which the limit then reads as fresh from the optimizer as
/// the hook finds its tensors. All sizes are multiples of a cache line's.
at::Tensor flatten_parameters(torch::nn::Module& model) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& parameter : model.parameters()) parts.push_back(parameter.view({-1}));
  at::Tensor flat = at::cat(parts);
  int64_t begin = 0;
  for (const at::Tensor& parameter : model.parameters()) {
    parameter.set_data(flat.narrow(0, begin, parameter.numel()).view(parameter.sizes()));
    begin += parameter.numel();
  }
  return flat;
}

void step(benchmark::State& state, const Case& /*of*/) {
  const int64_t width = flags().tiny ? 64 : 1024;
  const auto model = std::make_shared<Mlp>(width);
  const at::Tensor parameters = flatten_parameters(*model);
  const Way limit = plain_loop_way(parameters.clone(), parameters);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(1e-3));
  const at::Tensor input = at::randn({16, width}), target = at::randn({16, width});
  const auto train = [&] {
    const at::AutoGradMode gradients(true);
    optimizer.zero_grad();
    (model->forward(input) - target).square().mean().backward();
    optimizer.step();
  };

  test::FakeRunner runner(model);
  const auto hook = test::make_ema_hook(
      Node::mapping({{"ema_type", "ExponentialMovingAverage"}, {"momentum", kWeight}}));
  runner.hooks_.add(hook);
  runner.progress_.optimizer_steps = 0;
  runner.hooks_.call([&](Hook& each) { each.before_run(runner); });
  runner.hooks_.call([&](Hook& each) { each.before_train(runner); });
  const auto call_hooks = [&] {
    ++runner.progress_.optimizer_steps;
    runner.hooks_.call([&](Hook& each) { each.after_train_iter(runner, 0, {}); });
    ++runner.progress_.iter;
  };

  Progress progress;
  progress.max_optimizer_steps = 1'000'000;
  progress.optimizer_steps = 0;
  TargetOptions options(kWeight);
  options.end_momentum = kWeight;
  TargetNetwork target_network("target_net", model, options, &progress);
  const auto update_target = [&] {
    target_network.update();
    ++progress.optimizer_steps;
  };

  call_hooks();  // the first updates copy
  update_target();
  {
    torch::NoGradGuard no_grad;
    check({"hook", call_hooks, averages_of(*hook->average()), model->parameters()});
    check({"target", update_target, averages_of(target_network.average()), model->parameters()});
    check(limit);
  }

  // What a step takes longer is small beside how much steps differ. So all are
  // timed by themselves, right after the optimizer, and the whole steps beside that.
  Race race;
  race.add("hook", call_hooks, train);
  race.add("target", update_target, train);
  race.add("limit", limit.run, train);
  race.add(
      "nothing", [] {}, train);
  race.run(state);
  state.counters["target/limit"] = race.ratio("target", "limit");
  state.counters["step_us"] = race.whole_us("nothing");
  state.counters["hook_adds/limit_adds"] =
      race.whole_difference_us("hook", "nothing") / race.whole_difference_us("limit", "nothing");
}

}  // namespace

void add_step_benchmarks() {
  // Small differences of large times need more rounds.
  add_cases("step", {"mlp_25m"}, {at::kFloat}, step, 3 * flags().rounds);
}

}  // namespace polyak::bench
