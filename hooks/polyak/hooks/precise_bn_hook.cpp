// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/precise_bn_hook.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/utils.h>

#include <algorithm>
#include <functional>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "polyak/core/cleanup.h"
#include "polyak/core/log.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

template <class Visit>
void for_each_module(torch::nn::Module& module, const Visit& visit) {
  visit(module);
  for (const auto& child : module.children()) for_each_module(*child, visit);
}

using Modes = std::unordered_map<const torch::nn::Module*, bool>;  // whether it is in train mode

/// Sets the modes of modules. Parents come first, since train() also sets the children.
void set_modes(torch::nn::Module& root, const Modes& modes) {
  for_each_module(root, [&](torch::nn::Module& module) {
    const auto found = modes.find(&module);
    if (found != modes.end() && module.is_training() != found->second) module.train(found->second);
  });
}

/// Restores the mode of every module, including those that differ from their parents.
class KeepModes {
 public:
  explicit KeepModes(torch::nn::Module& root) : root_(root) {
    for_each_module(root, [&](const torch::nn::Module& module) {
      modes_.emplace(&module, module.is_training());
    });
  }
  ~KeepModes() {
    clean_up("restoring the modes of modules", [&] { set_modes(root_, modes_); });
  }
  KeepModes(const KeepModes&) = delete;
  KeepModes& operator=(const KeepModes&) = delete;

 private:
  torch::nn::Module& root_;
  Modes modes_;
};

/// The normalisation layers of a model during the passes. Those in train mode get the cumulative
/// mean over batches; all others, and those that no pass reaches, keep their statistics.
class CumulativeStatistics {
 public:
  CumulativeStatistics() = default;
  /// @return whether any layer gets new statistics.
  bool begin(torch::nn::Module& root) {
    for_each_module(root, [&](torch::nn::Module& module) {
      if (!known_.insert(&module).second) return;  // registered under two names
      if (auto* other = dynamic_cast<RunningStatistics*>(&module)) return begin(module, *other);
      begin<torch::nn::BatchNorm1dImpl>(module) || begin<torch::nn::BatchNorm2dImpl>(module) ||
          begin<torch::nn::BatchNorm3dImpl>(module);
    });
    return has_layers_;
  }
  ~CumulativeStatistics() {
    for (const auto& end : ends_) clean_up("restoring statistics", end);
  }
  CumulativeStatistics(const CumulativeStatistics&) = delete;
  CumulativeStatistics& operator=(const CumulativeStatistics&) = delete;

 private:
  template <class Layer>
  bool begin(torch::nn::Module& module) {
    auto* layer = dynamic_cast<Layer*>(&module);
    if (!layer) return false;
    if (!layer->options.track_running_stats() || !layer->running_mean.defined()) return true;
    const bool frozen = !layer->is_training();
    ends_.emplace_back([layer, frozen, momentum = layer->options.momentum(),
                        mean = layer->running_mean.clone(), var = layer->running_var.clone(),
                        count = layer->num_batches_tracked.clone()] {
      layer->options.momentum(momentum);
      if (frozen || layer->num_batches_tracked.template item<int64_t>() == 0) {
        layer->running_mean.copy_(mean);
        layer->running_var.copy_(var);
      }
      layer->num_batches_tracked.copy_(count);
    });
    if (frozen) return true;
    has_layers_ = true;
    // The first batch in train mode replaces the statistics. They are not reset before, since a
    // forward pass may put the layer into eval mode, which uses them.
    layer->options.momentum(std::decay_t<decltype(layer->options.momentum())>());  // cumulative
    layer->num_batches_tracked.zero_();
    // NaN and infinity would remain even with weight 0.
    if (!is_finite(layer->running_mean) || !is_finite(layer->running_var)) {
      layer->reset_running_stats();
    }
    return true;
  }

  void begin(const torch::nn::Module& module, RunningStatistics& layer) {
    if (!module.is_training()) return;
    has_layers_ = true;
    ends_.emplace_back([&layer] { layer.end_mean(); });
    layer.begin_mean();
  }

  static bool is_finite(const at::Tensor& tensor) { return tensor.isfinite().all().item<bool>(); }

  std::unordered_set<const torch::nn::Module*> known_;
  std::vector<std::function<void()>> ends_;
  bool has_layers_ = false;
};

std::vector<NamedTensor> buffers_of(const ModelRef& model) {
  std::vector<NamedTensor> buffers;
  for (NamedTensor& item : model.tensors()) {
    if (item.buffer) buffers.push_back({item.name, item.tensor.clone(), true});
  }
  return buffers;
}

/// Restores the buffers, also if the passes are interrupted.
class KeepBuffers {
 public:
  explicit KeepBuffers(const ModelRef& model) : model_(model), saved_(buffers_of(model)) {}
  ~KeepBuffers() {
    clean_up("restoring buffers", [&] {
      torch::NoGradGuard no_grad;
      size_t i = 0;
      for (NamedTensor& item : model_.tensors()) {
        if (item.buffer && armed_) item.tensor.copy_(saved_[i++].tensor);
      }
    });
  }
  KeepBuffers(const KeepBuffers&) = delete;
  KeepBuffers& operator=(const KeepBuffers&) = delete;
  void keep_new() { armed_ = false; }
  /// Copies of the buffers whose values have changed.
  std::vector<NamedTensor> changed() const {
    std::vector<NamedTensor> changed;
    const std::vector<NamedTensor> now = buffers_of(model_);
    for (size_t i = 0; i < now.size(); ++i) {
      if (!at::equal(now[i].tensor, saved_[i].tensor)) changed.push_back(now[i]);
    }
    return changed;
  }

 private:
  ModelRef model_;
  std::vector<NamedTensor> saved_;
  bool armed_ = true;
};

/// Whether averages are evaluated, and not the model itself.
bool has_measured(Runner& runner) {
  const AverageSet& averages = runner.averages();
  return std::any_of(averages.begin(), averages.end(),
                     [](const NamedAverage& item) { return item.is_measured; });
}

TrainingForward& forward_of(Runner& runner) {
  TrainingForward* forward = runner.training_forward();
  if (!forward) {
    fail<ConfigError>(
        "PreciseBNHook: requires forward passes over training data; set "
        "LoopHooksSettings::training_forward, or remove the hook");
  }
  return *forward;
}

}  // namespace

void PreciseBNHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("num_samples", &num_samples_, "Number of training samples for the estimate.",
              count_from(1));
}

PreciseBNHook::PreciseBNHook(PreciseBNHookOptions options) : options_(std::move(options)) {
  check_options(options_, "PreciseBNHook");
}

void PreciseBNHook::check_run(Runner& runner) {
  if (!runner.model().nn_module()) {
    fail<ConfigError>(
        "PreciseBNHook: finds BatchNorm layers only in a torch::nn::Module, but the model is a {}; "
        "remove the hook",
        runner.model().is_list() ? "list of tensors" : "TorchScript module");
  }
  if (runner.training()) forward_of(runner);
}

void PreciseBNHook::after_train_iter(Runner& runner, int64_t batch, const Scalars& /*outputs*/) {
  if (batch == 0) modes_.clear();  // layers may be added and removed
  if (modes_.empty()) {
    // The model need not be owned by a shared_ptr, but outlives the hook's calls.
    modes_.push_back({{std::shared_ptr<void>(), runner.model().nn_module()}, true});
    for (auto& module : runner.model().nn_module()->modules(/*include_self=*/false)) {
      modes_.push_back({std::move(module), true});
    }
  }
  for (ModuleMode& item : modes_) item.training = item.module->is_training();
}

/// Sets the modes that modules have in training: the model may be in eval mode now, and layers that
/// were frozen by eval() stay frozen.
void PreciseBNHook::set_training_modes(torch::nn::Module& root) const {
  if (modes_.empty() && root.is_training()) return;
  root.train(true);
  Modes modes;
  for (const ModuleMode& item : modes_) modes.emplace(item.module.get(), item.training);
  set_modes(root, modes);
}

void PreciseBNHook::estimate_model(Runner& runner, const ModelRef& model) const {
  const torch::NoGradGuard no_grad;
  torch::nn::Module& root = *model.nn_module();
  const KeepModes keep(root);
  set_training_modes(root);
  CumulativeStatistics layers;
  if (layers.begin(root)) forward_of(runner).run_training_forward(options_.num_samples());
}

void PreciseBNHook::estimate(Runner& runner) {
  if (!runner.training()) return;  // a checkpoint has the statistics of its save
  const ModelRef model = runner.model();
  for (const NamedAverage& item : runner.averages()) {
    AveragedModel& average = *item.average;
    if (!item.is_measured) continue;
    if (!average.has_started() || average.is_swapped()) continue;
    auto [last, is_new] = estimated_at_.emplace(&average, -1);
    if (last->second == average.steps()) continue;
    std::vector<NamedTensor> buffers;
    {
      const SwapGuard guard = average.swap(model);
      const KeepBuffers keep(model);  // the average's, which get all new values at once below
      estimate_model(runner, model);
      buffers = keep.changed();
    }
    if (!buffers.empty()) average.load_state(buffers, average.steps());
    last->second = average.steps();
  }
  if (!has_measured(runner)) {
    auto [last, is_new] = estimated_at_.emplace(nullptr, -1);
    if (last->second == runner.progress().iter) return;
    KeepBuffers keep(model);
    estimate_model(runner, model);
    keep.keep_new();
    last->second = runner.progress().iter;
  }
}

void PreciseBNHook::before_save_checkpoint(Runner& runner, Value& checkpoint) {
  // Entries of the checkpoint are handles to the live tensors, so they see the new statistics.
  if (has_measured(runner)) estimate(runner);
  // So that a resumed run does not estimate them again from other batches.
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
