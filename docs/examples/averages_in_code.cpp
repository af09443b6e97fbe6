// SPDX-License-Identifier: Apache-2.0
// An average in code, without a config and without hooks; and, if a config is given, a loop by
// iterations with hooks. What docs/embed.md and docs/from_pytorch.md quote.
#include <polyak/checkpoint/pth.h>
#include <polyak/checkpoint/safetensors.h>
#include <polyak/polyak.h>
#include <polyak/runtime/saved_average.h>
#include <torch/torch.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct NetImpl : torch::nn::Cloneable<NetImpl> {
  NetImpl() { reset(); }
  void reset() override { layer = register_module("layer", torch::nn::Linear(8, 2)); }
  torch::Tensor forward(const torch::Tensor& x) { return layer(x); }
  torch::nn::Linear layer{nullptr};
};
TORCH_MODULE(Net);

using Batches = std::vector<torch::Tensor>;

torch::Tensor loss_of(Net& model, const torch::Tensor& batch) {
  return model(batch).square().mean();
}

double evaluate(Net& model) {
  const torch::NoGradGuard no_grad;
  return model(torch::ones({1, 8})).abs().sum().item<double>();
}

void an_average(Net& model, torch::optim::Optimizer& optimizer,
                const std::unique_ptr<Batches>& loader, int64_t total_steps) {
  // --8<-- [start:average]
  polyak::CosineEMA ema(model, polyak::CosineEMAOptions().momentum(0.004).max_iters(total_steps));
  for (auto& batch : *loader) {
    optimizer.zero_grad();
    loss_of(model, batch).backward();
    optimizer.step();
    ema.update_parameters(model);
  }
  {
    auto guard = ema.swap(model);
    evaluate(model);
  }
  // --8<-- [end:average]
  std::printf("updates: %lld\n", static_cast<long long>(ema.steps()));
}

void a_mean(Net& model, torch::optim::Optimizer& optimizer, const Batches& loader) {
  const int64_t epochs = 4, start = 3;
  // --8<-- [start:swa]
  polyak::StochasticWeightAverage swa(model);
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    for (const auto& batch : loader) {
      optimizer.zero_grad();
      loss_of(model, batch).backward();
      optimizer.step();
    }
    if (epoch >= start) swa.update_parameters(model);
  }
  const torch::Tensor logits = swa.module<NetImpl>()->forward(torch::ones({1, 8}));
  // --8<-- [end:swa]
  std::printf("logits: %lld\n", static_cast<long long>(logits.numel()));
}

void a_factory(Net& model) {
  // --8<-- [start:factory]
  polyak::StochasticWeightAverage swa(model, {}, [] { return std::make_shared<NetImpl>(); });
  // --8<-- [end:factory]
  swa.update_parameters(model);
}

void growing() {
  const auto options = polyak::CosineEMAOptions().max_iters(100);
  torch::Tensor means = torch::ones({3, 2}), scales = torch::ones({3});
  const polyak::ModelRef points({{"means", means}, {"scales", scales}});
  auto ema = std::make_unique<polyak::CosineEMA>(points, options);
  ema->update_parameters(points);
  const torch::Tensor rows = torch::tensor({0, 1, 2, 2});
  means = means.index_select(0, rows), scales = scales.index_select(0, rows);
  // --8<-- [start:grown]
  const polyak::ModelRef grown({{"means", means}, {"scales", scales}});  // the new tensors
  auto next = std::make_unique<polyak::CosineEMA>(grown, options);
  std::vector<polyak::NamedTensor> values;
  for (const auto& item : ema->named_averages()) {
    // rows: which old row each new one is
    values.push_back({item.key(), item.value().index_select(0, rows)});
  }
  next->load_state(values, ema->steps());
  // --8<-- [end:grown]
  next->update_parameters(grown);
  std::printf("rows: %lld\n", static_cast<long long>(next->named_averages()["means"].size(0)));
}

void a_deferred_fence(Net& model, torch::optim::Optimizer& optimizer) {
  polyak::ExponentialMovingAverage ema(model);
  // --8<-- [start:fence]
  ema.defer_fence(true);
  // ...
  ema.fence();  // on the stream of the optimizer, before each step
  optimizer.step();
  ema.update_parameters(model);
  // --8<-- [end:fence]
}

void saving(Net& model) {
  polyak::ExponentialMovingAverage ema(model);
  ema.update_parameters(model);
  {
    // --8<-- [start:save]
    polyak::Value file = polyak::Value::dict();
    polyak::save_average(file, "teacher", ema.state_dict());
    polyak::write_pth("average.pth", file);
    // --8<-- [end:save]
  }
  {
    // --8<-- [start:load]
    const polyak::Value file = polyak::read_pth("average.pth");
    const polyak::LoadReport report = ema.load_state_dict(polyak::saved_average(file, "teacher"));
    if (!report.clean()) throw std::runtime_error(report.text());
    // --8<-- [end:load]
  }
  polyak::Value dict = polyak::Value::dict(), checkpoint = polyak::Value::dict();
  for (const auto& item : ema.named_averages()) dict.set(item.key(), item.value());
  checkpoint.set("state_dict", dict);
  polyak::write_pth("epoch_3.pth", checkpoint);
  {
    // --8<-- [start:safetensors]
    const polyak::Value file = polyak::read_pth("epoch_3.pth");
    polyak::write_safetensors("model.safetensors", file.at("state_dict"), {{"license", "mit"}});
    // or *.safetensors.index.json
    const polyak::Value weights = polyak::read_safetensors("model.safetensors");
    // --8<-- [end:safetensors]
    std::printf("kept: %lld\n",
                static_cast<long long>(weights.at("layer.weight").as_tensor().numel()));
  }
}

// With LoopHooks after all: a loop that counts iterations, not epochs.
void by_iterations(Net& model, torch::optim::Optimizer& optimizer, const std::string& config) {
  const int64_t steps = 200;
  // --8<-- [start:iterations]
  auto loop = polyak::LoopHooksSettings().max_iters(steps);
  polyak::LoopHooks hooks(config, model, loop.optimizer(optimizer));
  hooks.resume();
  while (hooks.progress().iter < steps && !hooks.stop_requested()) {
    optimizer.zero_grad();
    const auto loss = loss_of(model, torch::randn({16, 8}));
    loss.backward();
    optimizer.step();
    hooks.after_step();
    hooks.after_iter({{"loss", loss.item<double>()}});
  }
  hooks.after_train();
  // --8<-- [end:iterations]
  // --8<-- [start:averaged]
  if (const auto average = hooks.average()) {  // null if the config has no EMAHook
    auto guard = average->swap(model);         // the model has the averaged weights here
    torch::save(model, "averaged.pt");
  }
  // --8<-- [end:averaged]
  std::printf("iterations: %lld\n", static_cast<long long>(hooks.progress().iter));
}

}  // namespace

int main(int argc, char** argv) {
  torch::manual_seed(1);
  Net model;
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  if (argc > 1) {
    by_iterations(model, optimizer, argv[1]);
    return 0;
  }
  const auto loader = std::make_unique<Batches>(20, torch::ones({4, 8}));
  an_average(model, optimizer, loader, 20);
  a_mean(model, optimizer, *loader);
  a_factory(model);
  growing();
  a_deferred_fence(model, optimizer);
  saving(model);
  return 0;
}
