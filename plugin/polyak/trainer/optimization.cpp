// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/optimization.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "polyak/core/log.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/trainer/resume.h"
#include "polyak/trainer/resumed_schedules.h"

namespace polyak {
namespace {

/// A list of schedules; a single one is a list of one, null an empty list.
std::vector<Node> schedule_nodes(const Node& node) {
  if (node.is_null()) return {};
  return node.is_sequence() ? node.items() : std::vector<Node>{node};
}

}  // namespace

Optimization::Optimization(const Context& context, const ModelRef& model, StartingPoint& start)
    : context_(context) {
  const TrainConfig& options = *context.options;
  std::vector<NamedTensor> parameters;
  std::set<const void*> known;  // a tensor under two names must not be stepped twice
  for (const NamedTensor& item : model.tensors()) {
    if (!item.buffer && known.insert(item.tensor.unsafeGetTensorImpl()).second) {
      parameters.push_back(item);
    }
  }
  if (std::none_of(parameters.begin(), parameters.end(),
                   [](const NamedTensor& item) { return item.tensor.requires_grad(); })) {
    options.model.fail("none of its parameters requires a gradient, so there is nothing to train");
  }
  wrapper_ = std::make_unique<OptimWrapper>(options.optim_wrapper, *context.catalog, parameters);
  if (start.resuming) {
    take_over_optimizer(wrapper_->optimizer(), *start.checkpoint, *context.config,
                        takes_numbers_of_config(), start.file);
  }
  add_schedules();
  if (!start.resuming || takes_numbers_of_config()) return;
  if (Value* saved = start.checkpoint->find("param_schedulers")) {
    *saved = Value::list(match_schedules(schedulers_, *saved));
  }
}

std::optional<int64_t> Optimization::tensors_of_state() const {
  const Optimizer& optimizer = wrapper_->optimizer();
  if (optimizer.type().empty()) return std::nullopt;
  const Value groups = optimizer.state_dict().at("param_groups");
  const std::vector<std::string> names = optimizer.state_names(groups.items().front());
  return std::count_if(names.begin(), names.end(),
                       [](const std::string& name) { return name != "step"; });
}

void Optimization::add_schedules() {
  const Progress& progress = *context_.progress;
  const ParamScheduler::Context context{&wrapper_->optimizer(), progress.epoch_length,
                                        progress.max_epochs, progress.max_iters};
  for (const Node& node : schedule_nodes(context_.options->param_scheduler)) {
    schedulers_.push_back(context_.catalog->of<ParamScheduler>().build(node, context));
    for (const ParamScheduler::Doubt& doubt : schedulers_.back()->doubts()) {
      const Node* key = node.find(doubt.key);
      log_warning("{}{}", key ? key->prefix() : node.prefix(), doubt.text);
    }
    if (schedulers_.back()->by_epoch() && !progress.by_epoch) {
      node.fail(
          "counts epochs, but the training loop counts iterations, so it would never step; set "
          "by_epoch: false");
    }
  }
}

void Optimization::step_schedules(bool by_epoch) {
  for (const auto& scheduler : schedulers_) {
    if (scheduler->by_epoch() == by_epoch) scheduler->step();
  }
}

void Optimization::restore(const Value& checkpoint) {
  const bool own = takes_numbers_of_config();
  Optimizer& optimizer = wrapper_->optimizer();
  log_resumed_differences(optimizer, checkpoint, *context_.config, own);
  optimizer.load_state_dict(checkpoint.at("optimizer"),
                            own ? Optimizer::Numbers::own : Optimizer::Numbers::saved);
  wrapper_->load_loss_scale(checkpoint.at("optimizer"));
  if (own) {
    replay_schedules(checkpoint);
  } else if (const Value* saved = checkpoint.find("param_schedulers")) {
    const std::vector<Value>& states = saved->items();  // matched before
    for (size_t i = 0; i < states.size(); ++i) schedulers_[i]->load_state_dict(states[i]);
  } else if (!schedulers_.empty()) {
    log_warning(
        "the checkpoint contains no parameter schedulers; they start over from its learning rate");
  }
}

/// Steps the config's schedules as often as a run with this config would have by now, so that the
/// rates are the same as in such a run.
void Optimization::replay_schedules(const Value& checkpoint) {
  const Progress& progress = *context_.progress;
  const int64_t length = std::max<int64_t>(epoch_length_of(checkpoint, progress.epoch_length), 1);
  int64_t epochs = 0;
  for (int64_t iter = 1; iter <= progress.iter; ++iter) {
    step_schedules(/*by_epoch=*/false);
    if (iter % length != 0 || epochs == progress.epoch) continue;
    step_schedules(/*by_epoch=*/true);
    ++epochs;
  }
  for (; epochs < progress.epoch; ++epochs) step_schedules(/*by_epoch=*/true);
}

Value Optimization::schedules_state() const {
  std::vector<Value> states;
  for (const auto& scheduler : schedulers_) states.push_back(scheduler->state_dict());
  return Value::list(std::move(states));
}

void scale_learning_rate(TrainConfig& options, int64_t samples) {
  if (options.auto_scale_lr.is_null()) return;
  AutoScaleLrOptions scale;
  read_options(options.auto_scale_lr, scale, "auto_scale_lr");
  if (!scale.enable) return;
  const Node* optimizer = options.optim_wrapper.find("optimizer");
  const Node* lr = optimizer ? optimizer->find("lr") : nullptr;
  if (!lr) options.auto_scale_lr.fail("needs optim_wrapper.optimizer.lr, the rate to scale");
  const double ratio = static_cast<double>(samples) / static_cast<double>(scale.base_batch_size);
  const double scaled = lr->as_double() * ratio;
  log_info(
      "auto_scale_lr: {} samples an iteration, for {} in the config: the learning rate is {:.6g}",
      samples, scale.base_batch_size, scaled);
  Node changed = *optimizer;
  changed.set("lr", scaled);
  options.optim_wrapper.set("optimizer", std::move(changed));
}

}  // namespace polyak
