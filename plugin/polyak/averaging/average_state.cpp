// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/average_state.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <algorithm>
#include <unordered_set>

#include "polyak/averaging/average_core.h"
#include "polyak/averaging/averaged_model.h"
#include "polyak/core/log.h"

namespace polyak {
namespace {

std::vector<NamedTensor> clones_of(std::vector<NamedTensor> tensors) {
  for (NamedTensor& item : tensors) item.tensor = item.tensor.detach().clone();
  return tensors;
}

/// Calls `action` with the memory of each tensor.
template <class Action>
void for_each_storage(const AverageState& state, Action&& action) {
  for (const auto* tensors : {&state.values, &state.exact, &state.compensation}) {
    for (const NamedTensor& item : *tensors) {
      if (item.tensor.has_storage()) action(item.tensor.storage().unsafeGetStorageImpl());
    }
  }
  for (const KeptTensors& kept : state.kept) {
    for (const NamedTensor& item : kept.tensors) {
      action(item.tensor.storage().unsafeGetStorageImpl());
    }
  }
}

bool share_memory(const AverageState& a, const AverageState& b) {
  std::unordered_set<const void*> of_a;
  for_each_storage(a, [&](const void* storage) { of_a.insert(storage); });
  bool shared = false;
  for_each_storage(b, [&](const void* storage) { shared = shared || of_a.count(storage) != 0; });
  return shared;
}

}  // namespace

AverageState AverageState::clone() const {
  AverageState copy = *this;
  copy.values = clones_of(std::move(copy.values));
  copy.exact = clones_of(std::move(copy.exact));
  copy.compensation = clones_of(std::move(copy.compensation));
  for (KeptTensors& item : copy.kept) item.tensors = clones_of(std::move(item.tensors));
  return copy;
}

AverageState AveragedModel::state_dict() {
  AverageState state;
  state.rule = rule_name();
  state.options = rule_options();
  state.steps = steps();
  state.values = this->state();
  const auto averages = named_averages();
  for (NamedTensor& item : state.values) {
    item.tensor = item.tensor.detach();
    const at::Tensor& average = averages[item.name];
    if (average.scalar_type() != item.tensor.scalar_type()) {
      state.exact.push_back({item.name, average.detach(), item.buffer});
    }
  }
  state.compensation = compensation();
  if (core_->tensor_rule) state.kept = core_->tensor_rule->kept();
  if (core_->origin() > 0) state.numbers.set("origin", core_->origin());
  if (core_->restarted_at > 0) state.numbers.set("restarted_at", core_->restarted_at);
  if (core_->filled > 0) state.numbers.set("filled", core_->filled);
  return state;
}

LoadReport AveragedModel::load_state_dict(const AverageState& state) {
  if (state.steps < 0) {
    fail<Error>("load_state_dict: steps is {}; it counts updates, from 0", state.steps);
  }
  // The rounded values are written before the exact ones are read.
  if (share_memory(state, state_dict())) return load_state_dict(state.clone());

  LoadReport report = load_state(state.values, state.steps);
  if (!state.exact.empty()) {
    for (std::string& text : load_state(state.exact, state.steps).mismatched) {
      auto& known = report.mismatched;
      if (std::find(known.begin(), known.end(), text) == known.end()) {
        known.push_back(std::move(text));
      }
    }
  }
  load_compensation(state.compensation);
  const torch::NoGradGuard no_grad;
  if (core_->tensor_rule) core_->tensor_rule->load(state.kept, state.options);
  const Node* const restarted_at = state.numbers.find("restarted_at");
  core_->restarted_at = restarted_at ? restarted_at->as_int() : 0;
  const Node* const filled = state.numbers.find("filled");
  core_->filled = filled ? filled->as_double() : state.steps == 0 ? 0 : -1;
  // An average that had started goes on, wherever the options now have its begin.
  const Node* const origin = state.numbers.find("origin");
  const int64_t began = origin ? origin->as_int() : 0;
  if (state.rule == rule_name() && state.steps > began && !core_->has_started()) {
    core_->begun_at = began;
  }
  if (!state.rule.empty() && state.rule != rule_name()) {
    log_warning("{}: the state was made by {}; the average continues with {}", rule_name(),
                state.rule, rule_name());
  }
  return report;
}

}  // namespace polyak
