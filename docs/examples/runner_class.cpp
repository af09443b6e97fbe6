// SPDX-License-Identifier: Apache-2.0
// A program that has a runner class of its own: it implements polyak::Runner and drives a
// polyak::RunLoop.
#include <polyak/hooks/ema_hook.h>
#include <polyak/hooks/logger_hook.h>
#include <polyak/polyak.h>
#include <polyak/runtime/hook_list.h>
#include <polyak/runtime/run_loop.h>
#include <polyak/runtime/runner.h>

#include <ATen/ATen.h>
#include <polyak/averaging/register.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <cmath>
#include <cstdio>
#include <memory>

namespace {

// --8<-- [start:runner]
class LineFitter : public polyak::Runner {
 public:
  LineFitter(int64_t epochs, int64_t batches) {
    polyak::RunLength length;
    length.max_epochs = epochs;
    length.epoch_length = batches;
    length.max_iters = epochs * batches;
    loop_.set_length(length);
  }

  // What hooks see. The rest of polyak::Runner has defaults.
  polyak::ModelRef model() override { return net_; }
  const polyak::Progress& progress() const override { return loop_.progress(); }
  polyak::HookList& hooks() override { return hooks_; }
  void request_stop() override { stop_ = true; }
  void log(const std::string& name, double value) override { loop_.logged()[name] = value; }
  const polyak::Scalars& logged() const override { return loop_.logged(); }
  polyak::Scalars validate(const std::string& suffix) override {
    return loop_.measure_again(suffix).value();
  }

  /// @return the metrics of the last validation
  polyak::Scalars train() {
    polyak::Scalars metrics;
    hooks_.call([&](polyak::Hook& hook) { hook.check_run(*this); });
    while (progress().epoch < progress().max_epochs && !stop_) {
      for (int64_t batch = 0; batch < progress().epoch_length; ++batch) {
        loop_.before_iter();
        const double loss = step();
        loop_.after_step();
        loop_.after_iter({{"loss", loss}});
      }
      loop_.after_epoch();
      metrics = loop_.evaluate(polyak::Hook::Stage::val, [&] {
        return polyak::Scalars{{"error", error()}};
      });
    }
    loop_.after_train();
    loop_.after_run();
    return metrics;
  }
  // --8<-- [end:runner]

 private:
  /// One batch of noisy points on y = 3x - 2. @return the loss
  double step() {
    const at::Tensor x = at::rand({8, 1});
    optimizer_.zero_grad();
    const at::Tensor loss = (net_(x) - (3 * x - 2 + 0.5 * at::randn({8, 1}))).pow(2).mean();
    loss.backward();
    optimizer_.step();
    return loss.item<double>();
  }

  /// How far slope and offset are from the truth.
  double error() {
    return std::abs(net_->weight.item<double>() - 3) + std::abs(net_->bias.item<double>() + 2);
  }

  torch::nn::Linear net_{1, 1};
  torch::optim::SGD optimizer_{net_->parameters(), torch::optim::SGDOptions(0.5)};
  polyak::HookList hooks_;
  polyak::RunLoop loop_{*this};
  bool stop_ = false;
};

}  // namespace

int main() {
  torch::manual_seed(1);
  // --8<-- [start:hooks]
  polyak::Catalog catalog;
  polyak::register_averages(catalog);
  LineFitter fitter(/*epochs=*/4, /*batches=*/50);
  fitter.hooks().add(std::make_shared<polyak::EMAHook>(
      polyak::EMAHookOptions().average("momentum", 0.05).evaluate_on_origin(true),
      catalog.of<polyak::AveragedModel>()));
  fitter.hooks().add(
      std::make_shared<polyak::LoggerHook>(polyak::LoggerHookOptions().interval(50)));
  const polyak::Scalars metrics = fitter.train();
  // --8<-- [end:hooks]
  std::printf("averaged: off by %.3f, raw: off by %.3f\n", metrics.at("error"),
              metrics.at("error_origin"));
  return metrics.at("error") < metrics.at("error_origin") ? 0 : 1;
}
