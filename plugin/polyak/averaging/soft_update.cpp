// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/soft_update.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "polyak/averaging/by_aten.h"
#include "polyak/averaging/joint_update.h"
#include "polyak/averaging/module_tree.h"
#include "polyak/averaging/plan.h"
#include "polyak/averaging/slot.h"
#include "polyak/core/error.h"

namespace polyak {
namespace {

void check_tau(double tau) {
  if (tau > 0 && tau <= 1) return;
  fail<Error>(
      "soft_update: tau is {}, but it must be above 0 and at most 1: the weight of the online "
      "network (0.005 is usual; 1 copies)",
      tau);
}

/// The tensors by name. Models of one class have the same names in the same order, so the map is
/// only made when they differ.
class ByName {
 public:
  explicit ByName(const std::vector<NamedTensor>& tensors) : tensors_(tensors) {}
  /// @param guess where it probably is
  const NamedTensor* find(const std::string& name, size_t guess) {
    if (guess < tensors_.size() && tensors_[guess].name == name) return &tensors_[guess];
    if (places_.empty()) {
      for (const NamedTensor& item : tensors_) places_.emplace(item.name, &item);
    }
    const auto found = places_.find(name);
    return found == places_.end() ? nullptr : found->second;
  }

 private:
  const std::vector<NamedTensor>& tensors_;
  std::unordered_map<std::string, const NamedTensor*> places_;
};

void check_pair(const NamedTensor& target, const NamedTensor& online) {
  for (const at::Tensor* tensor : {&target.tensor, &online.tensor}) {
    if (tensor->layout() == at::kStrided && !tensor->is_meta()) continue;
    fail<Error>("soft_update: {}: is a {} tensor, which cannot be averaged; make it dense",
                target.name, tensor->is_meta() ? "meta" : "sparse");
  }
  if (target.tensor.sizes() != online.tensor.sizes()) {
    fail<Error>(
        "soft_update: {}: is {} in the target, but {} in the online network; build both networks "
        "alike",
        target.name, fmt::format("[{}]", fmt::join(target.tensor.sizes(), ", ")),
        fmt::format("[{}]", fmt::join(online.tensor.sizes(), ", ")));
  }
  if (!same_kind(target.tensor, online.tensor)) {
    fail<Error>("soft_update: {}: is {} in the target, but {} in the online network; cast one",
                target.name, at::toString(target.tensor.scalar_type()),
                at::toString(online.tensor.scalar_type()));
  }
}

[[noreturn]] void fail_for_names(const std::vector<NamedTensor>& target,
                                 const std::vector<NamedTensor>& online) {
  const auto lacking = [](const std::vector<NamedTensor>& has,
                          const std::vector<NamedTensor>& from) {
    std::vector<std::string> names;
    ByName known(has);
    for (size_t i = 0; i < from.size(); ++i) {
      if (!known.find(from[i].name, i)) names.push_back(from[i].name);
    }
    if (names.size() > 5) {
      const size_t more = names.size() - 5;
      names.resize(5);
      names.push_back(fmt::format("and {} more", more));
    }
    return fmt::format("{}", fmt::join(names, ", "));
  };
  std::string text;
  if (const auto names = lacking(target, online); !names.empty()) {
    text += fmt::format("; the target lacks {}", names);
  }
  if (const auto names = lacking(online, target); !names.empty()) {
    text += fmt::format("; the online network lacks {}", names);
  }
  fail<Error>("soft_update: the networks have different tensors{}; build both alike", text);
}

}  // namespace

/// The pairs of two models, with the target's tensor as the average.
class SoftUpdatePairs {
 public:
  SoftUpdatePairs(const ModelRef& target, const ModelRef& online, SoftUpdateBuffers buffers)
      : average_buffers_(buffers == SoftUpdateBuffers::average) {
    const std::vector<NamedTensor> averages = target.tensors(), sources = online.tensors();
    ByName of_online(sources);
    std::unordered_map<const void*, const NamedTensor*> source_of;  // of a target's tensor
    auto slots = std::make_shared<Slots>();
    slots->reserve(averages.size());
    bool complete = averages.size() == sources.size();
    for (size_t i = 0; i < averages.size() && complete; ++i) {
      const NamedTensor& average = averages[i];
      const NamedTensor* source = of_online.find(average.name, i);
      if (!source) {
        complete = false;
        break;
      }
      check_pair(average, *source);
      held_.push_back(average.tensor);  // so that no other tensor gets its address
      held_.push_back(source->tensor);
      if (average.tensor.is_same(source->tensor)) continue;  // a layer that both share
      const auto [known, is_new] = source_of.emplace(average.tensor.unsafeGetTensorImpl(), source);
      if (is_new) {
        add(average, source->tensor, *slots);
      } else if (!known->second->tensor.is_same(source->tensor)) {
        fail<Error>(
            "soft_update: {} and {} are one tensor in the target, but two in the online network; "
            "tie them in both",
            known->second->name, average.name);
      }
    }
    if (!complete) fail_for_names(averages, sources);
    plan_ = std::make_unique<Plan>(std::move(slots), /*check_finite=*/false);
  }

  bool is_current() const {
    return plan_->is_current() &&
           std::all_of(elsewhere_.begin(), elsewhere_.end(), [](const Slot& slot) {
             return slot.source.device() != slot.average.device() &&
                    slot.source.sizes() == slot.average.sizes();
           });
  }

  void update(double tau) {
    const torch::NoGradGuard no_grad;
    if (plan_->is_captured_now()) {
      fail<Error>(
          "soft_update: a CUDA graph is being captured, which cannot capture it; make the target "
          "an ExponentialMovingAverage, whose updates can be");
    }
    if (tau == 1) return copy();
    const JointUpdate joint(
        JointUpdate::Share{plan_.get(), tau, /*averages=*/true, /*copies=*/true});
    joint.place_on_gpus();
    joint.run();
    for (const Slot& slot : elsewhere_) {
      is_averaged(slot) ? lerp_by_aten(slot, tau) : void(slot.average.copy_(slot.source));
    }
    // The kernel writes behind autograd's back.
    for (const at::Tensor& tensor : written_) tensor.unsafeGetTensorImpl()->bump_version();
  }

 private:
  void add(const NamedTensor& average, const at::Tensor& source, Slots& slots) {
    Slot slot{average.name,   source, average.tensor,       average.tensor, {},
              average.buffer, {},     source.scalar_type(), source.device()};
    if (average.buffer && !average_buffers_) slot.mode = TensorMode::copy;
    if (!average.tensor.is_inference()) written_.push_back(average.tensor);
    pairs_.emplace_back(average.tensor, source);
    // A plan would hand tensors of two devices to a thread of its own.
    const bool together = source.device() == average.tensor.device();
    (together ? slots : elsewhere_).push_back(std::move(slot));
  }
  /// Even over a NaN.
  void copy() const {
    for (const auto& [average, source] : pairs_) average.copy_(source);
  }

  bool average_buffers_;
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs_;  // target, online
  std::vector<at::Tensor> written_;                       // with a version counter
  std::vector<at::Tensor> held_;
  Slots elsewhere_;  // where the two are on different devices
  std::unique_ptr<Plan> plan_;
};

void soft_update(const ModelRef& target, const ModelRef& online, double tau,
                 SoftUpdateBuffers buffers) {
  check_tau(tau);
  SoftUpdatePairs(target, online, buffers).update(tau);
}

struct SoftUpdate::State {
  State(const ModelRef& target, const ModelRef& online, SoftUpdateBuffers buffers)
      : target(target), online(online), buffers(buffers), pairs(target, online, buffers) {
    look_at_modules();
  }
  void look_at_modules() {
    target_tree = tree_of(target);
    online_tree = tree_of(online);
  }
  static ModuleTree tree_of(const ModelRef& model) {
    return model.nn_module() ? ModuleTree(*model.nn_module())
           : model.script()  ? ModuleTree(*model.script())
                             : ModuleTree();  // a list has the same tensors forever
  }
  /// Whether no tensor was replaced, by itself or with its module.
  bool is_current() const {
    return target_tree.is_current() && online_tree.is_current() && pairs.is_current();
  }

  ModelRef target, online;
  SoftUpdateBuffers buffers;
  SoftUpdatePairs pairs;
  ModuleTree target_tree, online_tree;
};

SoftUpdate::SoftUpdate(const ModelRef& target, const ModelRef& online, SoftUpdateBuffers buffers)
    : state_(std::make_unique<State>(target, online, buffers)) {}
SoftUpdate::~SoftUpdate() = default;
SoftUpdate::SoftUpdate(SoftUpdate&&) noexcept = default;
SoftUpdate& SoftUpdate::operator=(SoftUpdate&&) noexcept = default;

void SoftUpdate::operator()(double tau) {
  check_tau(tau);
  State& state = *state_;
  if (!state.is_current()) {
    state.pairs = SoftUpdatePairs(state.target, state.online, state.buffers);
    state.look_at_modules();
  }
  state.pairs.update(tau);
}

}  // namespace polyak
