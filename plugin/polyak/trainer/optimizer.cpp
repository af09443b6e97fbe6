// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/optimizer.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "polyak/optim/python_class.h"
#include "polyak/optim/saved_state.h"

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
class TorchOptimizer final : public Optimizer {
 public:
  template <class Torch, class TorchOptions>
  static std::shared_ptr<Optimizer> make(const Context& context, const TorchOptions& options) {
    std::shared_ptr<TorchOptimizer> made(new TorchOptimizer(context, options.lr()));
    std::vector<torch::optim::OptimizerParamGroup> groups;
    for (const Group& group : made->groups()) groups.emplace_back(group.parameters);
    made->optimizer_ = std::make_unique<Torch>(std::move(groups), options);
    made->class_ = python_class_of(*made->optimizer_);
    // Not by options of the groups: LibTorch 2.15 takes those that equal a default of the class,
    // such as no weight decay, for unset, and replaces them by the optimizer's.
    for (size_t i = 0; i < made->groups().size(); ++i) {
      static_cast<TorchOptions&>(made->options(i))
          .weight_decay(options.weight_decay() * made->groups()[i].rule.decay_mult);
    }
    return made;
  }

  void step() override { optimizer_->step(); }
  double lr() const override { return options(0).get_lr(); }
  void set_lr(double lr) override {
    for (size_t i = 0; i < groups().size(); ++i) options(i).set_lr(lr);
  }
  double momentum() const override {
    const Value numbers = group(0);
    const Value* const momentum = numbers.find("momentum");
    return momentum ? momentum->as_real() : numbers.at("betas").items().front().as_real();
  }
  void set_momentum(double momentum) override {
    for (size_t i = 0; i < groups().size(); ++i) {
      Value numbers = group(i);
      if (numbers.contains("momentum")) {
        numbers.set("momentum", momentum);
      } else {
        const Value second = numbers.at("betas").items().back();
        numbers.set("betas", Value::tuple({momentum, second}));
      }
      load_group(i, numbers);
    }
  }
  std::string type() const override { return class_->name(); }
  std::vector<std::string> state_names(const Value& group) const override {
    return class_->state_names(group);
  }

 private:
  TorchOptimizer(const Context& context, double lr) : Optimizer(context, lr) {}

  torch::optim::OptimizerOptions& options(size_t group) {
    return optimizer_->param_groups()[group].options();
  }
  const torch::optim::OptimizerOptions& options(size_t group) const {
    return optimizer_->param_groups()[group].options();
  }
  size_t group_of(const at::Tensor& parameter) const {
    size_t group = 0;
    const auto is_it = [&](const at::Tensor& other) { return other.is_same(parameter); };
    while (
        std::none_of(groups()[group].parameters.begin(), groups()[group].parameters.end(), is_it)) {
      ++group;
    }
    return group;
  }

  Value group(size_t index) const override { return class_->group(options(index)); }
  void load_group(size_t index, const Value& group) override {
    class_->assign(options(index), *class_->read_group(group));
  }
  Value state_of(const at::Tensor& parameter) const override {
    const auto found = optimizer_->state().find(state_key(parameter));
    return found == optimizer_->state().end() ? Value::dict() : class_->state(*found->second);
  }
  void load_state_of(const at::Tensor& parameter, const Value& saved) override {
    auto state = class_->read_state(parameter, saved, options(group_of(parameter)));
    if (state) optimizer_->state()[state_key(parameter)] = std::move(state);
  }
  void clear_state() override { optimizer_->state().clear(); }

  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  const PythonClass* class_ = nullptr;
};

/// The state that an updated parameter has with momentum.
std::vector<std::string> momentum_names(const Value& group) {
  const Value* momentum = group.find("momentum");
  return momentum && momentum->as_real() != 0 ? std::vector<std::string>{"momentum_buffer"}
                                              : std::vector<std::string>();
}

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
  double momentum() const override { return options_.front().momentum; }
  void set_momentum(double momentum) override {
    for (LarsOptions& options : options_) options.momentum = momentum;
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

double Optimizer::momentum() const {
  fail<ConfigError>("{} has no momentum that a schedule could change",
                    type().empty() ? "this optimizer" : type());
}

void Optimizer::set_momentum(double /*momentum*/) {
  static_cast<void>(momentum());  // says so
}

double Optimizer::initial_momentum() {
  if (!initial_momentum_) initial_momentum_ = momentum();
  return *initial_momentum_;
}

void Optimizer::zero_grad() {
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
}

Value Optimizer::state_dict() const {
  std::vector<SavedGroup> saved;
  for (size_t i = 0; i < groups_.size(); ++i) {
    saved.push_back({group(i), {}, groups_[i].names});
    saved.back().numbers.set("initial_lr", initial_lr_);
    if (initial_momentum_) {  // MMEngine's schedulers read both, of Adam's kind too
      saved.back().numbers.set("momentum", momentum());
      saved.back().numbers.set("initial_momentum", *initial_momentum_);
    }
    for (const at::Tensor& parameter : groups_[i].parameters) {
      saved.back().states.push_back(state_of(parameter));
    }
  }
  return state_dict_of(std::move(saved));
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
  check_shapes(saved.at("state"), indices, parameters_, names_);
}

void Optimizer::load_state_dict(const Value& saved, Numbers numbers) {
  check_state_dict(saved);
  const std::vector<Value>& groups = saved.at("param_groups").items();
  if (numbers == Numbers::saved) {
    for (size_t i = 0; i < groups.size(); ++i) load_group(i, groups[i]);
    if (const Value* initial = groups.front().find("initial_lr")) initial_lr_ = initial->as_real();
    const Value* const momentum = groups.front().find("initial_momentum");
    if (momentum && initial_momentum_) initial_momentum_ = momentum->as_real();
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
  return TorchOptimizer::make<torch::optim::SGD>(context, torch::optim::SGDOptions(options.lr)
                                                              .momentum(options.momentum)
                                                              .dampening(options.dampening)
                                                              .weight_decay(options.weight_decay)
                                                              .nesterov(options.nesterov));
}

std::shared_ptr<Optimizer> make_adam(const AdamOptions& options,
                                     const Optimizer::Context& context) {
  check_options(options, "Adam");
  return TorchOptimizer::make<torch::optim::Adam>(
      context, torch_adam_options<torch::optim::AdamOptions>(options));
}

std::shared_ptr<Optimizer> make_adamw(const AdamWOptions& options,
                                      const Optimizer::Context& context) {
  check_options(options, "AdamW");
  return TorchOptimizer::make<torch::optim::AdamW>(
      context, torch_adam_options<torch::optim::AdamWOptions>(options));
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
