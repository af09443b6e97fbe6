// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/optimizer.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <type_traits>
#include <unordered_map>

namespace polyak {
namespace {

/// A tensor of a state dict, in the dtype and on the device of the parameter that it belongs to.
at::Tensor tensor_like(const at::Tensor& parameter, const Value& value) {
  return value.as_tensor().to(parameter.device(), parameter.scalar_type(), /*non_blocking=*/false,
                              /*copy=*/true);
}

/// The keys of the parameters of all groups in a state dict.
std::vector<Value> indices_of(const std::vector<Value>& groups) {
  std::vector<Value> indices;
  for (const Value& group : groups) {
    const std::vector<Value>& own = group.at("params").items();
    indices.insert(indices.end(), own.begin(), own.end());
  }
  return indices;
}

/// One of LibTorch's optimizers.
template <class Torch, class TorchOptions, class TorchState>
class TorchOptimizer : public Optimizer {
 public:
  TorchOptimizer(const Context& context, const TorchOptions& options)
      : Optimizer(context, options.lr()), optimizer_(torch_groups(), options) {
    // Not by options of the groups: LibTorch 2.15 takes those that equal a default of the class,
    // such as no weight decay, for unset, and replaces them by the optimizer's.
    for (size_t i = 0; i < groups().size(); ++i) {
      this->options(i).weight_decay(options.weight_decay() * groups()[i].rule.decay_mult);
    }
  }

  void step() override { optimizer_.step(); }
  double lr() const override { return options(0).lr(); }
  void set_lr(double lr) override {
    for (size_t i = 0; i < groups().size(); ++i) options(i).lr(lr);
  }

 protected:
  TorchOptions& options(size_t group) {
    return static_cast<TorchOptions&>(optimizer_.param_groups()[group].options());
  }
  const TorchOptions& options(size_t group) const {
    return static_cast<const TorchOptions&>(optimizer_.param_groups()[group].options());
  }
  const TorchState* state(const at::Tensor& parameter) const {
    const auto found = optimizer_.state().find(key(parameter));
    return found == optimizer_.state().end() ? nullptr
                                             : static_cast<const TorchState*>(found->second.get());
  }
  void set_state(const at::Tensor& parameter, std::unique_ptr<TorchState> state) {
    optimizer_.state()[key(parameter)] = std::move(state);
  }
  void clear_state() override { optimizer_.state().clear(); }

 private:
  std::vector<torch::optim::OptimizerParamGroup> torch_groups() const {
    std::vector<torch::optim::OptimizerParamGroup> result;
    for (const Group& group : groups()) result.emplace_back(group.parameters);
    return result;
  }

  /// LibTorch finds a parameter's state by its address: a pointer, or its text (up to 2.0).
  static auto key(const at::Tensor& parameter) {
    using Map = std::decay_t<decltype(std::declval<Torch>().state())>;
    if constexpr (std::is_same_v<typename Map::key_type, std::string>) {
      std::ostringstream text;
      text << parameter.unsafeGetTensorImpl();
      return text.str();
    } else {
      return static_cast<void*>(parameter.unsafeGetTensorImpl());
    }
  }

  Torch optimizer_;
};

/// For SGD and LARS.
std::vector<std::string> momentum_names(const Value& group) {
  const Value* momentum = group.find("momentum");
  return momentum && momentum->as_real() != 0 ? std::vector<std::string>{"momentum_buffer"}
                                              : std::vector<std::string>();
}

class Sgd final : public TorchOptimizer<torch::optim::SGD, torch::optim::SGDOptions,
                                        torch::optim::SGDParamState> {
 public:
  using TorchOptimizer::TorchOptimizer;
  std::string type() const override { return "SGD"; }
  std::vector<std::string> state_names(const Value& group) const override {
    return momentum_names(group);
  }

 private:
  Value group(size_t index) const override {
    const torch::optim::SGDOptions& options = this->options(index);
    Value group = Value::dict();
    group.set("lr", options.lr());
    group.set("momentum", options.momentum());
    group.set("dampening", options.dampening());
    group.set("weight_decay", options.weight_decay());
    group.set("nesterov", options.nesterov());
    return group;
  }

  void load_group(size_t index, const Value& group) override {
    torch::optim::SGDOptions& options = this->options(index);
    options.lr(group.at("lr").as_real());
    options.momentum(group.at("momentum").as_real());
    options.dampening(group.at("dampening").as_real());
    options.weight_decay(group.at("weight_decay").as_real());
    options.nesterov(group.at("nesterov").as_bool());
  }

  Value state_of(const at::Tensor& parameter) const override {
    Value result = Value::dict();
    const auto* found = state(parameter);
    if (found && found->momentum_buffer().defined()) {
      result.set("momentum_buffer", found->momentum_buffer());
    }
    return result;
  }

  void load_state_of(const at::Tensor& parameter, const Value& saved) override {
    const Value* buffer = saved.find("momentum_buffer");
    if (!buffer || buffer->is_none()) return;
    auto state = std::make_unique<torch::optim::SGDParamState>();
    state->momentum_buffer(tensor_like(parameter, *buffer));
    set_state(parameter, std::move(state));
  }
};

/// Adam and AdamW, which keep the same state.
template <class Torch, class TorchOptions, class TorchState>
class AdamLike final : public TorchOptimizer<Torch, TorchOptions, TorchState> {
 public:
  using TorchOptimizer<Torch, TorchOptions, TorchState>::TorchOptimizer;
  std::string type() const override { return kDecoupled ? "AdamW" : "Adam"; }
  std::vector<std::string> state_names(const Value& group) const override {
    std::vector<std::string> names = {"step", "exp_avg", "exp_avg_sq"};
    const Value* amsgrad = group.find("amsgrad");
    if (amsgrad && amsgrad->as_bool()) names.emplace_back("max_exp_avg_sq");
    return names;
  }

 private:
  static constexpr bool kDecoupled = std::is_same_v<Torch, torch::optim::AdamW>;

  Value group(size_t index) const override {
    const TorchOptions& options = this->options(index);
    Value group = Value::dict();
    group.set("lr", options.lr());
    group.set("betas", Value::tuple({std::get<0>(options.betas()), std::get<1>(options.betas())}));
    group.set("eps", options.eps());
    group.set("weight_decay", options.weight_decay());
    group.set("amsgrad", options.amsgrad());
    group.set("decoupled_weight_decay", kDecoupled);
    return group;
  }

  void load_group(size_t index, const Value& group) override {
    const std::vector<Value>& betas = group.at("betas").items();
    if (betas.size() != 2) fail<CheckpointError>("optimizer: betas must be two numbers");
    TorchOptions& options = this->options(index);
    options.lr(group.at("lr").as_real());
    options.betas({betas[0].as_real(), betas[1].as_real()});
    options.eps(group.at("eps").as_real());
    options.weight_decay(group.at("weight_decay").as_real());
    options.amsgrad(group.at("amsgrad").as_bool());
  }

  Value state_of(const at::Tensor& parameter) const override {
    Value result = Value::dict();
    const TorchState* found = this->state(parameter);
    if (!found) return result;
    // Python keeps the step as a float tensor; exact up to 2^24 steps.
    result.set("step", at::scalar_tensor(static_cast<double>(found->step()), at::kFloat));
    result.set("exp_avg", found->exp_avg());
    result.set("exp_avg_sq", found->exp_avg_sq());
    if (found->max_exp_avg_sq().defined()) result.set("max_exp_avg_sq", found->max_exp_avg_sq());
    return result;
  }

  void load_state_of(const at::Tensor& parameter, const Value& saved) override {
    const Value* step = saved.find("step");
    if (!step) return;
    auto state = std::make_unique<TorchState>();
    state->step(step->is_tensor() ? step->as_tensor().template item<int64_t>() : step->as_int());
    state->exp_avg(tensor_like(parameter, saved.at("exp_avg")));
    state->exp_avg_sq(tensor_like(parameter, saved.at("exp_avg_sq")));
    if (const Value* largest = saved.find("max_exp_avg_sq")) {
      state->max_exp_avg_sq(tensor_like(parameter, *largest));
    } else if (this->options(0).amsgrad()) {  // which the previous run did not use
      state->max_exp_avg_sq(at::zeros_like(state->exp_avg_sq()));
    }
    this->set_state(parameter, std::move(state));
  }
};

using Adam = AdamLike<torch::optim::Adam, torch::optim::AdamOptions, torch::optim::AdamParamState>;
using AdamW =
    AdamLike<torch::optim::AdamW, torch::optim::AdamWOptions, torch::optim::AdamWParamState>;

class Lars final : public Optimizer {
 public:
  Lars(const LarsOptions& options, const Context& context) : Optimizer(context, options.lr) {
    for (const Group& group : groups()) {
      options_.push_back(options);
      options_.back().weight_decay *= group.rule.decay_mult;
    }
  }

  std::string type() const override { return "LARS"; }
  std::vector<std::string> state_names(const Value& group) const override {
    return momentum_names(group);
  }
  double lr() const override { return options_.front().lr; }
  void set_lr(double lr) override {
    for (LarsOptions& options : options_) options.lr = lr;
  }

  void step() override {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < groups().size(); ++i) {
      for (const at::Tensor& parameter : groups()[i].parameters) {
        if (parameter.grad().defined()) step(parameter, options_[i], groups()[i].rule);
      }
    }
  }

 private:
  void step(const at::Tensor& parameter, const LarsOptions& options, const ParameterRule& rule) {
    at::Tensor change = parameter.grad().add(parameter, options.weight_decay);
    if (rule.lars_exclude) {
      change.mul_(options.lr);
    } else {
      // Zero-dimensional double tensors instead of numbers, to avoid waiting for a GPU.
      const at::Tensor weights = parameter.norm().to(at::kDouble);
      const at::Tensor gradient = parameter.grad().norm().to(at::kDouble);
      const at::Tensor scale =
          options.eta * weights / (gradient + options.weight_decay * weights + options.eps);
      const at::Tensor usable = (weights != 0).logical_and(gradient != 0);
      change.mul_(at::where(usable, scale, at::ones_like(scale)) * options.lr);
    }
    if (options.momentum != 0) {
      at::Tensor& buffer = buffers_[parameter.unsafeGetTensorImpl()];
      if (buffer.defined()) {
        buffer.mul_(options.momentum).add_(change, 1 - options.dampening);
      } else {
        buffer = change.clone();
      }
      change = options.nesterov ? change.add(buffer, options.momentum) : buffer;
    }
    at::Tensor(parameter).sub_(change);
  }

  Value group(size_t index) const override {
    const LarsOptions& options = options_[index];
    Value group = Value::dict();
    group.set("lr", options.lr);
    group.set("momentum", options.momentum);
    group.set("dampening", options.dampening);
    group.set("weight_decay", options.weight_decay);
    group.set("nesterov", options.nesterov);
    group.set("eta", options.eta);
    group.set("eps", options.eps);
    group.set("lars_exclude", groups()[index].rule.lars_exclude);
    return group;
  }

  void load_group(size_t index, const Value& group) override {
    LarsOptions& options = options_[index];
    options.lr = group.at("lr").as_real();
    options.momentum = group.at("momentum").as_real();
    options.dampening = group.at("dampening").as_real();
    options.weight_decay = group.at("weight_decay").as_real();
    options.nesterov = group.at("nesterov").as_bool();
    options.eta = group.at("eta").as_real();
    if (const Value* eps = group.find("eps")) options.eps = eps->as_real();
  }

  Value state_of(const at::Tensor& parameter) const override {
    Value result = Value::dict();
    const auto found = buffers_.find(parameter.unsafeGetTensorImpl());
    if (found != buffers_.end()) result.set("momentum_buffer", found->second);
    return result;
  }

  void load_state_of(const at::Tensor& parameter, const Value& saved) override {
    const Value* buffer = saved.find("momentum_buffer");
    if (!buffer || buffer->is_none()) return;
    buffers_[parameter.unsafeGetTensorImpl()] = tensor_like(parameter, *buffer);
  }

  void clear_state() override { buffers_.clear(); }

  std::vector<LarsOptions> options_;  // of each group
  std::unordered_map<const void*, at::Tensor> buffers_;
};

template <class TorchOptions>
TorchOptions torch_adam_options(const AdamOptions& options) {
  return TorchOptions(options.lr)
      .betas({options.betas[0], options.betas[1]})
      .eps(options.eps)
      .weight_decay(options.weight_decay)
      .amsgrad(options.amsgrad);
}

}  // namespace

Optimizer::Optimizer(const Context& context, double lr) : initial_lr_(lr) {
  for (size_t i = 0; i < context.parameters.size(); ++i) {
    const ParameterRule rule = context.rules.empty() ? ParameterRule() : context.rules[i];
    auto place = std::find_if(groups_.begin(), groups_.end(),
                              [&](const Group& group) { return group.rule == rule; });
    if (place == groups_.end()) place = groups_.insert(place, {rule, {}, {}});
    place->parameters.push_back(context.parameters[i]);
    if (!context.names.empty()) place->names.push_back(context.names[i]);
  }
  for (const Group& group : groups_) {
    parameters_.insert(parameters_.end(), group.parameters.begin(), group.parameters.end());
    names_.insert(names_.end(), group.names.begin(), group.names.end());
  }
}

Optimizer::~Optimizer() = default;

void Optimizer::zero_grad() {
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
}

Value Optimizer::state_dict() const {
  Value state = Value::dict();
  std::vector<Value> saved_groups;
  int64_t index = 0;
  for (size_t i = 0; i < groups_.size(); ++i) {
    std::vector<Value> indices;
    for (const at::Tensor& parameter : groups_[i].parameters) {
      Value entry = state_of(parameter);
      if (!entry.entries().empty()) state.set(index, std::move(entry));
      indices.emplace_back(index++);
    }
    Value saved = group(i);
    saved.set("initial_lr", initial_lr_);
    saved.set("params", Value::list(std::move(indices)));
    if (!groups_[i].names.empty()) {
      saved.set("param_names", Value::list({groups_[i].names.begin(), groups_[i].names.end()}));
    }
    saved_groups.push_back(std::move(saved));
  }
  Value result = Value::dict();
  result.set("state", std::move(state));
  result.set("param_groups", Value::list(std::move(saved_groups)));
  return result;
}

void Optimizer::check_state_dict(const Value& saved) const {
  const std::vector<Value>& groups = saved.at("param_groups").items();
  const std::vector<Value> indices = indices_of(groups);
  if (indices.size() != parameters_.size()) {
    fail<CheckpointError>("optimizer: the checkpoint has {} parameters, the model {}",
                          indices.size(), parameters_.size());
  }
  const bool alike =
      std::equal(groups.begin(), groups.end(), groups_.begin(), groups_.end(),
                 [](const Value& theirs, const Group& ours) {
                   return theirs.at("params").items().size() == ours.parameters.size();
                 });
  if (!alike) {
    fail<CheckpointError>(
        "optimizer: the checkpoint splits the parameters into {} groups, but this run splits them "
        "differently, into {}; set paramwise_cfg as it was",
        groups.size(), groups_.size());
  }
  const Value& state = saved.at("state");
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Value* entry = state.find(indices[i]);
    if (!entry) continue;
    for (const auto& [name, value] : entry->entries()) {
      if (!value.is_tensor() || name.as_string() == "step") continue;
      if (value.as_tensor().sizes() == parameters_[i].sizes()) continue;
      fail<CheckpointError>(
          "optimizer: {} of {} has {} dimensions and {} elements in the checkpoint, which does not "
          "fit the model's parameter",
          name.as_string(), names_.empty() ? fmt::format("parameter {}", i) : names_[i],
          value.as_tensor().dim(), value.as_tensor().numel());
    }
  }
}

void Optimizer::load_state_dict(const Value& saved, Numbers numbers) {
  check_state_dict(saved);
  const std::vector<Value>& groups = saved.at("param_groups").items();
  if (numbers == Numbers::saved) {
    for (size_t i = 0; i < groups.size(); ++i) load_group(i, groups[i]);
    if (const Value* initial = groups.front().find("initial_lr")) initial_lr_ = initial->as_real();
  }
  const std::vector<Value> indices = indices_of(groups);
  const Value& state = saved.at("state");
  clear_state();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (const Value* entry = state.find(indices[i])) load_state_of(parameters_[i], *entry);
  }
}

void SgdOptions::visit(OptionVisitor& visitor) {
  visitor.required("lr", &lr, "Learning rate.", at_least(0));
  visitor.key("momentum", &momentum, "Factor of the running sum of gradients; 0: none.",
              at_least(0));
  visitor.key("dampening", &dampening, "Fraction by which a new gradient is reduced.", at_least(0));
  visitor.key("weight_decay", &weight_decay,
              "L2 penalty: this factor times the weights is added to the gradients.", at_least(0));
  visitor.key("nesterov", &nesterov, "Use Nesterov momentum.");
}

void SgdOptions::validate() const {
  if (nesterov && (momentum <= 0 || dampening != 0)) {
    fail_option("nesterov", "needs a momentum above 0 and no dampening");
  }
}

void AdamOptions::visit(OptionVisitor& visitor) {
  visitor.key("lr", &lr, "Learning rate.", at_least(0));
  visitor.key("betas", &betas,
              "Decay rates of the running averages of gradients and of their squares.",
              Bounds{0.0, 1.0, false, true});
  visitor.key("eps", &eps, "Added to the denominator.", at_least(0));
  visitor.key("weight_decay", &weight_decay,
              "Weight decay: added to the gradients by Adam, applied to the weights by AdamW.",
              at_least(0));
  visitor.key("amsgrad", &amsgrad, "Divide by the largest average of squares so far.");
}

void AdamOptions::validate() const {
  if (betas.size() != 2) fail_option("betas", "needs two numbers, got {}", betas.size());
}

std::shared_ptr<Optimizer> make_sgd(const SgdOptions& options, const Optimizer::Context& context) {
  check_options(options, "SGD");
  return std::make_shared<Sgd>(context, torch::optim::SGDOptions(options.lr)
                                            .momentum(options.momentum)
                                            .dampening(options.dampening)
                                            .weight_decay(options.weight_decay)
                                            .nesterov(options.nesterov));
}

std::shared_ptr<Optimizer> make_adam(const AdamOptions& options,
                                     const Optimizer::Context& context) {
  check_options(options, "Adam");
  return std::make_shared<Adam>(context, torch_adam_options<torch::optim::AdamOptions>(options));
}

std::shared_ptr<Optimizer> make_adamw(const AdamWOptions& options,
                                      const Optimizer::Context& context) {
  check_options(options, "AdamW");
  return std::make_shared<AdamW>(context, torch_adam_options<torch::optim::AdamWOptions>(options));
}

void LarsOptions::visit(OptionVisitor& visitor) {
  visitor.required("lr", &lr, "Learning rate.", at_least(0));
  visitor.key("momentum", &momentum, "Factor of the running sum of steps; 0: none.", at_least(0));
  visitor.key("weight_decay", &weight_decay,
              "L2 penalty: this factor times the weights is added to the gradients.", at_least(0));
  visitor.key("dampening", &dampening, "Fraction by which a new step is reduced.", at_least(0));
  visitor.key("eta", &eta,
              "Trust coefficient: size of a parameter's step relative to its norm, at lr 1.",
              at_least(0));
  visitor.key("nesterov", &nesterov, "Use Nesterov momentum.");
  visitor.key("eps", &eps, "Added to the denominator.", at_least(0));
}

void LarsOptions::validate() const {
  if (nesterov && (momentum <= 0 || dampening != 0)) {
    fail_option("nesterov", "needs a momentum above 0 and no dampening");
  }
}

std::shared_ptr<Optimizer> make_lars(const LarsOptions& options,
                                     const Optimizer::Context& context) {
  check_options(options, "LARS");
  return std::make_shared<Lars>(options, context);
}

}  // namespace polyak
