// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/optim_wrapper.h"

#include <ATen/Functions.h>
#include <torch/types.h>  // clip_grad.h uses it without including it

#include <torch/nn/utils/clip_grad.h>

#include <algorithm>

#include "polyak/core/log.h"
#include "polyak/distributed/gradient_reducer.h"
#include "polyak/registry/registry.h"

namespace polyak {

void ClipGradOptions::visit(OptionVisitor& visitor) {
  visitor.key("max_norm", &max_norm, "Scale all gradients so that their norm is at most this.",
              above(0));
  visitor.key("norm_type", &norm_type, "Which norm: 2, 1, or .inf for the largest entry.",
              Bounds{0.0, std::numeric_limits<double>::infinity(), true, false});
  visitor.key("max_value", &max_value, "Clamp each entry of each gradient to plus or minus this.",
              above(0));
}

void ClipGradOptions::validate() const {
  if (max_norm.has_value() == max_value.has_value()) {
    fail<ConfigError>("clip_grad takes one of max_norm and max_value");
  }
}

void ParameterRuleOptions::visit(OptionVisitor& visitor) {
  visitor.key("decay_mult", &rule.decay_mult, "Factor of the optimizer's weight decay.",
              at_least(0));
  visitor.key("lars_exclude", &rule.lars_exclude,
              "Whether LARS uses the plain learning rate; other optimizers always do.");
}

void ParamwiseOptions::visit(OptionVisitor& visitor) {
  visitor.block<ParameterRuleOptions>(
      "custom_keys", &custom_keys,
      "Rules by substrings of parameter names; the longest matching key applies.",
      Blocks::Form::by_name);
}

void OptimWrapperOptions::visit(OptionVisitor& visitor) {
  visitor.choice("type", &type, {"OptimWrapper", "AmpOptimWrapper"},
                 "The kind of wrapper; AmpOptimWrapper computes in mixed precision.");
  visitor.required_component("optimizer", &optimizer, "optimizer", "The optimizer.");
  visitor.key("accumulative_counts", &accumulative_counts,
              "Iterations whose gradients are accumulated for one optimizer step.", count_from(1));
  visitor.block<ClipGradOptions>("clip_grad", &clip_grad,
                                 "Gradient clipping: max_norm or max_value; null: none.");
  visitor.block<ParamwiseOptions>(
      "paramwise_cfg", &paramwise_cfg,
      "custom_keys: {part of a name: {decay_mult, lars_exclude}}; null: the same for all "
      "parameters.");
  visitor.choice("dtype", &dtype, {"bfloat16", "float16"},
                 "Of AmpOptimWrapper: the smaller type; null: float16 on a GPU, else bfloat16.");
  visitor.any("loss_scale", &loss_scale, "dynamic, or number or null",
              "Of AmpOptimWrapper: the factor of the loss, or how it is found; null: dynamic for "
              "float16, none for bfloat16.",
              above(0));
}

void OptimWrapperOptions::validate() const {
  if (type != "AmpOptimWrapper") {
    if (dtype) fail_option("dtype", "is a key of type: AmpOptimWrapper");
    if (!loss_scale.is_null()) loss_scale.fail("is a key of type: AmpOptimWrapper");
  }
  if (loss_scale.is_null()) return;
  const bool is_word = loss_scale.is_scalar() && loss_scale.text() == "dynamic";
  if (!is_word && !(loss_scale.is_number() && above(0).contains(loss_scale.as_double()))) {
    loss_scale.fail("must be dynamic, or a number above 0");
  }
}

namespace {

/// The rule of each parameter: the rule of the longest key that its name contains, as in MMEngine.
std::vector<ParameterRule> rules_for(const Node& paramwise_cfg,
                                     const std::vector<NamedTensor>& parameters) {
  ParamwiseOptions options;
  read_options(paramwise_cfg, options, "paramwise_cfg");
  if (options.custom_keys.is_null()) return {};
  struct Entry {
    std::string key;
    ParameterRule rule;
    bool used = false;
  };
  std::vector<Entry> entries;
  for (const auto& [key, node] : options.custom_keys.entries()) {
    ParameterRuleOptions entry;
    read_options(node, entry, "custom_keys");
    entries.push_back({key, entry.rule});
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.key.size() != b.key.size() ? a.key.size() > b.key.size() : a.key < b.key;
  });
  std::vector<ParameterRule> rules;
  for (const NamedTensor& parameter : parameters) {
    const auto found = std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
      return parameter.name.find(entry.key) != std::string::npos;
    });
    rules.push_back(found == entries.end() ? ParameterRule() : found->rule);
    if (found != entries.end()) found->used = true;
  }
  for (const Entry& entry : entries) {
    if (entry.used) continue;
    log_warning("{}no parameter name contains '{}', or longer keys match all that do",
                options.custom_keys.prefix(), entry.key);
  }
  return rules;
}

}  // namespace

OptimWrapper::OptimWrapper(const Node& node, const Catalog& catalog,
                           const std::vector<NamedTensor>& parameters) {
  read_options(node, options_, "optim_wrapper");
  if (!options_.clip_grad.is_null()) {
    clip_grad_.emplace();
    read_options(options_.clip_grad, *clip_grad_, "clip_grad");
  }
  Optimizer::Context context;
  for (const NamedTensor& parameter : parameters) {
    context.parameters.push_back(parameter.tensor);
    context.names.push_back(parameter.name);
  }
  context.rules = rules_for(options_.paramwise_cfg, parameters);
  optimizer_ = catalog.of<Optimizer>().build(options_.optimizer, context);
  if (options_.type == "AmpOptimWrapper") set_up_mixed_precision(node);
}

void OptimWrapper::set_up_mixed_precision(const Node& node) {
  const std::vector<at::Tensor>& parameters = optimizer_->parameters();
  const bool on_cpu = parameters.empty() || parameters.front().is_cpu();
  const bool half = options_.dtype ? *options_.dtype == "float16" : !on_cpu;
  if (half && on_cpu) {
    node.at("dtype").fail("float16 needs a GPU; bfloat16 trains on a CPU");
  }
  autocast_dtype_ = half ? c10::ScalarType::Half : c10::ScalarType::BFloat16;
  if (options_.loss_scale.is_number()) {
    loss_scale_ = LossScale(options_.loss_scale.as_double());
  } else if (half || !options_.loss_scale.is_null()) {
    loss_scale_ = LossScale();
  }
}

OptimWrapper::~OptimWrapper() = default;

void OptimWrapper::set_reducer(std::unique_ptr<GradientReducer> reducer) {
  reducer_ = std::move(reducer);
}

void OptimWrapper::start(int64_t iter, int64_t max_iters) {
  iter_ = iter;
  max_iters_ = max_iters;
  const std::vector<at::Tensor>& parameters = optimizer_->parameters();
  const bool gathered = std::any_of(parameters.begin(), parameters.end(),
                                    [](const at::Tensor& p) { return p.grad().defined(); });
  if (between_steps() && !gathered) {
    log_warning(
        "the run resumes after iteration {}, between two optimizer steps of {} iterations each; "
        "the gradients accumulated there are lost",
        iter, options_.accumulative_counts);
  }
}

bool OptimWrapper::is_between_steps(int64_t iter) const {
  return iter % options_.accumulative_counts != 0 && iter < max_iters_;
}

bool OptimWrapper::between_steps() const {
  return is_between_steps(iter_);
}

bool OptimWrapper::steps_next() const {
  return !is_between_steps(iter_ + 1);
}

void OptimWrapper::before_forward() {
  if (reducer_ && steps_next()) reducer_->forward();
}

bool OptimWrapper::update(const at::Tensor& loss) {
  const int64_t remainder = max_iters_ % options_.accumulative_counts;
  const int64_t count = iter_ < max_iters_ - remainder ? options_.accumulative_counts : remainder;
  at::Tensor part = count == 1 || !loss.defined() ? loss : loss / count;
  if (loss_scale_ && part.defined()) part = part * loss_scale_->value();
  reducer_ ? reducer_->backward(part, steps_next()) : part.backward();
  ++iter_;
  if (between_steps()) return false;
  if (loss_scale_) {
    const bool finite = loss_scale_->unscale(optimizer_->parameters());
    loss_scale_->update(finite);
    if (!finite) {  // the factor was too large
      optimizer_->zero_grad();
      return false;
    }
  }
  if (clip_grad_) clip();
  optimizer_->step();
  optimizer_->zero_grad();
  return true;
}

Value OptimWrapper::state_dict() const {
  Value state = optimizer_->state_dict();
  if (loss_scale_) state.set("loss_scaler", loss_scale_->state_dict());
  return state;
}

void OptimWrapper::load_loss_scale(const Value& state) {
  const Value* const saved = state.find("loss_scaler");
  if (saved && loss_scale_) loss_scale_->load_state_dict(*saved);
}

void OptimWrapper::clip() {
  if (clip_grad_->max_norm) {
    grad_norm_ = torch::nn::utils::clip_grad_norm_(optimizer_->parameters(), *clip_grad_->max_norm,
                                                   clip_grad_->norm_type);
  }
  if (clip_grad_->max_value) {
    torch::nn::utils::clip_grad_value_(optimizer_->parameters(), *clip_grad_->max_value);
  }
}

}  // namespace polyak
