#include "polyak/hooks/precise_bn_hook.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/utils.h>

#include <functional>
#include <type_traits>
#include <vector>

#include "polyak/core/log.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

/// One BatchNorm layer that is set to take the plain mean over batches, until this goes.
class CumulativeStatistics {
 public:
  template <class Layer>
  explicit CumulativeStatistics(Layer& layer)
      : restore_([&layer, momentum = layer.options.momentum(), mean = layer.running_mean.clone(),
                  var = layer.running_var.clone(), count = layer.num_batches_tracked.clone()] {
          layer.options.momentum(momentum);
          if (layer.num_batches_tracked.template item<int64_t>() == 0) {
            // No forward pass led here: what predicts may be a part of the model.
            layer.running_mean.copy_(mean);
            layer.running_var.copy_(var);
          }
          layer.num_batches_tracked.copy_(count);
        }) {
    layer.options.momentum(std::decay_t<decltype(layer.options.momentum())>());  // none: cumulative
    layer.reset_running_stats();
  }
  explicit CumulativeStatistics(RunningStatistics& layer)
      : restore_([&layer] { layer.end_mean(); }) {
    layer.begin_mean();
  }
  ~CumulativeStatistics() {
    if (restore_) restore_();
  }
  CumulativeStatistics(CumulativeStatistics&& other) noexcept
      : restore_(std::move(other.restore_)) {
    other.restore_ = nullptr;
  }
  CumulativeStatistics& operator=(CumulativeStatistics&&) = delete;

 private:
  std::function<void()> restore_;
};

template <class Layer>
bool take(torch::nn::Module& module, std::vector<CumulativeStatistics>& layers) {
  auto* layer = dynamic_cast<Layer*>(&module);
  if (layer && layer->options.track_running_stats()) layers.emplace_back(*layer);
  return layer != nullptr;
}

void collect(torch::nn::Module& module, std::vector<CumulativeStatistics>& layers) {
  if (auto* other = dynamic_cast<RunningStatistics*>(&module)) layers.emplace_back(*other);
  take<torch::nn::BatchNorm1dImpl>(module, layers) ||
      take<torch::nn::BatchNorm2dImpl>(module, layers) ||
      take<torch::nn::BatchNorm3dImpl>(module, layers);
  for (const auto& child : module.named_children()) collect(*child.value(), layers);
}

/// @return whether the model has BatchNorm layers.
bool estimate_statistics(Runner& runner, const Model& model, int64_t num_samples) {
  if (!model.nn_module()) return false;
  torch::NoGradGuard no_grad;
  std::vector<CumulativeStatistics> layers;
  collect(*model.nn_module(), layers);
  if (layers.empty()) return false;

  struct KeepMode {
    const Model& model;
    bool training = model.is_training();
    ~KeepMode() { model.train(training); }
  } keep{model};
  model.train(true);
  runner.run_training_forward(num_samples);
  return true;
}

std::vector<NamedTensor> buffers_of(const Model& model) {
  std::vector<NamedTensor> buffers;
  for (NamedTensor& item : model.tensors()) {
    if (item.buffer) buffers.push_back({item.name, item.tensor.clone(), true});
  }
  return buffers;
}

/// Buffers change under a run that is broken off half way; this puts them back.
class KeepBuffers {
 public:
  explicit KeepBuffers(const Model& model) : model_(model), saved_(buffers_of(model)) {}
  ~KeepBuffers() {
    torch::NoGradGuard no_grad;
    size_t i = 0;
    for (NamedTensor& item : model_.tensors()) {
      if (item.buffer && armed_) item.tensor.copy_(saved_[i++].tensor);
    }
  }
  KeepBuffers(const KeepBuffers&) = delete;
  KeepBuffers& operator=(const KeepBuffers&) = delete;
  void keep_new() { armed_ = false; }

 private:
  Model model_;
  std::vector<NamedTensor> saved_;
  bool armed_ = true;
};

}  // namespace

void PreciseBNHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("num_samples", &num_samples_, "Training samples to estimate the statistics from.",
              at_least(1));
}

PreciseBNHook::PreciseBNHook(PreciseBNHookOptions options) : options_(std::move(options)) {
  check_options(options_, "PreciseBNHook");
}

void PreciseBNHook::check_run(Runner& runner) {
  if (!runner.model().nn_module()) {
    fail<ConfigError>(
        "PreciseBNHook: finds BatchNorm layers in a torch::nn::Module only, and the model is a {}; "
        "leave the hook out",
        runner.model().is_list() ? "list of tensors" : "TorchScript module");
  }
  if (runner.training() && !runner.has_training_forward()) {
    fail<ConfigError>(
        "PreciseBNHook: needs forward passes over training data, and this loop gave none; hand "
        "LoopHooksOptions::training_forward a function, or leave PreciseBNHook out");
  }
}

void PreciseBNHook::estimate(Runner& runner) {
  if (!runner.training()) return;  // a checkpoint holds the statistics of its save
  const Model model = runner.model();
  for (const NamedAverage& item : runner.averages()) {
    AveragedModel& average = *item.average;
    if (average.steps() == 0 || average.is_swapped()) continue;
    auto [last, is_new] = estimated_at_.emplace(&average, -1);
    if (last->second == average.steps()) continue;
    std::vector<NamedTensor> buffers;
    {
      const SwapGuard guard = average.swap(model);
      KeepBuffers keep(model);  // of the average: they come in below, all at once
      if (estimate_statistics(runner, model, options_.num_samples())) buffers = buffers_of(model);
    }
    average.load_state(buffers, average.steps());
    last->second = average.steps();
  }
  if (runner.averages().empty()) {
    auto [last, is_new] = estimated_at_.emplace(nullptr, -1);
    if (last->second == runner.progress().iter) return;
    KeepBuffers keep(model);
    estimate_statistics(runner, model, options_.num_samples());
    keep.keep_new();
    last->second = runner.progress().iter;
  }
}

void PreciseBNHook::before_save_checkpoint(Runner& runner, Value& checkpoint) {
  // Entries of the checkpoint are handles to the live tensors, so they see the new statistics.
  if (!runner.averages().empty()) estimate(runner);
  // So that a run which goes on from here does not estimate them once more, from other batches.
  Value estimated = Value::dict();
  for (const NamedAverage& item : runner.averages()) {
    const auto found = estimated_at_.find(item.average.get());
    if (found != estimated_at_.end()) estimated.set(item.name, found->second);
  }
  if (!checkpoint.contains("polyak")) checkpoint.set("polyak", Value::dict()).set("format", 1);
  checkpoint.at("polyak").set("precise_bn", std::move(estimated));
}

void PreciseBNHook::after_load_checkpoint(Runner& runner, Value& checkpoint) {
  const Value* ours = checkpoint.find("polyak");
  const Value* estimated = ours ? ours->find("precise_bn") : nullptr;
  if (!estimated || !runner.resuming()) return;
  for (const NamedAverage& item : runner.averages()) {
    const Value* step = estimated->find(item.name);
    if (step) estimated_at_[item.average.get()] = step->as_int();
  }
}

}  // namespace polyak
