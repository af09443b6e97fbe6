// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/averaged_tensors.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "polyak/averaging/average_memory.h"
#include "polyak/averaging/by_aten.h"
#include "polyak/averaging/precision.h"
#include "polyak/core/error.h"

namespace polyak {
namespace {

void check_shape(const std::string& name, const at::Tensor& source, const at::Tensor& average) {
  if (source.sizes() == average.sizes()) return;
  fail<Error>(
      "{}: has the shape {} in the model, but its average has {}; build a new average for a "
      "model of another shape",
      name, fmt::join(source.sizes(), "x"), fmt::join(average.sizes(), "x"));
}

}  // namespace

// ---- binding

bool AveragedTensors::rebind(const std::vector<NamedTensor>& tensors,
                             const std::string& model_class) {
  std::unordered_map<std::string, at::Tensor> by_name;
  std::unordered_set<const void*> distinct;
  for (const NamedTensor& item : tensors) {
    by_name.emplace(item.name, item.tensor);
    distinct.insert(item.tensor.unsafeGetTensorImpl());
  }
  std::vector<std::string> missing;
  bool same = tensors.size() == names_.size() && distinct.size() == slots_->size();
  for (const auto& [name, i] : names_) {
    const auto found = by_name.find(name);
    if (found == by_name.end()) {
      missing.push_back(name);
      continue;
    }
    const Slot& slot = (*slots_)[i];
    check_shape(name, found->second, slot.average);
    check_kind(slot, found->second);
    same = same && found->second.is_same(by_name.at(slot.name));  // tied as before
  }
  if (!missing.empty()) {
    fail<Error>("the model {} lacks averaged tensors: {}", model_class, fmt::join(missing, ", "));
  }
  if (!same) return false;
  for (Slot& slot : *slots_) {
    const at::Tensor& source = by_name.at(slot.name);
    if (slot.source.is_same(source)) continue;
    slot.source = source;
    ++revision_;
  }
  return true;
}

void AveragedTensors::rebuild(const std::vector<NamedTensor>& tensors,
                              const std::string& model_class,
                              std::shared_ptr<torch::nn::Module> copy) {
  std::unordered_map<std::string, at::Tensor> counterparts;
  for (const NamedTensor& item : ModelRef(std::move(copy)).tensors()) {
    counterparts.emplace(item.name, item.tensor);
  }

  Slots slots;
  Names names;
  std::unordered_map<const void*, size_t> slot_of;
  for (const NamedTensor& item : tensors) {
    const auto counterpart = counterparts.find(item.name);
    if (counterpart == counterparts.end()) {
      fail<Error>(
          "the copy of {} lacks {}; its factory, or its reset(), must register the same tensors",
          model_class, item.name);
    }
    at::Tensor mine = counterpart->second;
    mine.set_requires_grad(false);
    const auto [known, is_new] = slot_of.emplace(item.tensor.unsafeGetTensorImpl(), slots.size());
    names.emplace_back(item.name, known->second);
    if (is_new) {
      // A clone has the constructor's dtype even if the model was cast since.
      const c10::Device place = settings_.device.value_or(item.tensor.device());
      mine.set_data(item.tensor.detach().to(place).clone());
      slots.push_back({item.name,
                       item.tensor,
                       mine,
                       mine,
                       {},
                       item.buffer,
                       {},
                       item.tensor.scalar_type(),
                       item.tensor.device()});
    } else {
      Slot& slot = slots[known->second];
      mine.set_data(slot.module_tensor.variable_data());  // tied here as there
      slot.aliases.push_back(mine);
    }
  }

  const auto slots_before = std::exchange(slots_, std::make_shared<Slots>(std::move(slots)));
  const Names names_before = std::exchange(names_, std::move(names));
  settle_precision();
  gather_averages(*slots_);
  keep_averages(*slots_before, names_before);
}

/// If parameters were added to the model or its ties changed, the averages of the others continue.
void AveragedTensors::keep_averages(const Slots& slots, const Names& names) {
  const std::unordered_map<std::string, size_t> slot_of(names.begin(), names.end());
  for (const Slot& slot : *slots_) {
    const auto kept = slot_of.find(slot.name);
    if (kept == slot_of.end()) continue;
    const Slot& had = slots[kept->second];
    const bool same_dtype = slot.average.scalar_type() == had.average.scalar_type();
    if (slot.residual.defined() && had.residual.defined() && same_dtype) {
      slot.residual.copy_(had.residual);
    }
    slot.average.copy_(same_dtype ? had.average : exact_value(had));
  }
}

/// Whether the slot's average can continue with the source's kind of numbers.
bool AveragedTensors::could_follow(const Slot& slot, const at::Tensor& source) const {
  // LibTorch casts a module's integers too. They are copied, as are buffers.
  const bool copied =
      !is_for_averaging(slot, settings_.update_buffers) || !is_averageable(slot.average);
  return copied || same_kind(source, slot.average);
}

void AveragedTensors::check_kind(const Slot& slot, const at::Tensor& source) const {
  if (could_follow(slot, source)) return;
  fail<Error>(
      "{}: is {} in the model, but its average is {}; build a new average for a model of "
      "another dtype",
      slot.name, at::toString(source.scalar_type()), at::toString(slot.average.scalar_type()));
}

void AveragedTensors::check_fit() const {
  for (const Slot& slot : *slots_) {
    check_shape(slot.name, slot.source, slot.average);
    check_kind(slot, slot.source);
  }
}

/// Several elements of an expanded tensor share memory: values cannot be written there.
void AveragedTensors::check_writable(const char* what, const char* instead) const {
  for (const Slot& slot : *slots_) {
    const at::Tensor& source = slot.source;
    for (int64_t i = 0; i < source.dim(); ++i) {
      if (source.size(i) > 1 && source.stride(i) == 0) {
        fail<Error>(
            "{} {}: it is expanded, so several indices share a number; use {}, or contiguous()",
            what, slot.name, instead);
      }
    }
  }
}

// ---- dtypes and places

void AveragedTensors::follow_model() {
  bool followed = false;
  for (Slot& slot : *slots_) {
    const at::ScalarType dtype = slot.source.scalar_type();
    const c10::Device device = slot.source.device();
    const bool cast = dtype != slot.followed_dtype;
    const bool moved = device != slot.followed_device && !settings_.device;
    if ((!cast && !moved) || !could_follow(slot, slot.source)) continue;
    const at::Tensor& now = slot.module_tensor;
    set_module_tensor(slot,
                      now.to(moved ? device : now.device(), cast ? dtype : now.scalar_type()));
    slot.followed_dtype = dtype;
    slot.followed_device = device;
    followed = true;
  }
  if (!followed) return;
  settle_precision();
  gather_averages(*slots_);
}

void AveragedTensors::settle_precision() {
  for (Slot& slot : *slots_) {
    polyak::settle_precision(slot, settings_.precision,
                             is_for_averaging(slot, settings_.update_buffers));
  }
  ++revision_;
}

void AveragedTensors::move(const std::function<at::Tensor(const at::Tensor&)>& moved) {
  for (Slot& slot : *slots_) set_module_tensor(slot, moved(slot.module_tensor));
  settle_precision();
  gather_averages(*slots_);
}

// ---- values

void AveragedTensors::sync_from_module() {
  for (const Slot& slot : *slots_) {
    if (slot.is_apart()) slot.average.copy_(slot.module_tensor);
    if (slot.residual.defined()) slot.residual.zero_();
  }
}

void AveragedTensors::refresh_module() {
  for (const Slot& slot : *slots_) {
    if (slot.is_apart()) slot.module_tensor.copy_(slot.average);
  }
}

void AveragedTensors::copy_from_model() {
  for (const Slot& slot : *slots_) {
    slot.average.copy_(slot.source);
    if (slot.residual.defined()) slot.residual.zero_();
  }
}

void AveragedTensors::copy_to_model() const {
  for (const Slot& slot : *slots_) slot.source.copy_(slot.average);
}

void AveragedTensors::put_into_model(SwapState& state) const {
  state.items.reserve(slots_->size());
  for (const Slot& slot : *slots_) state.keep(slot.source);
  for (size_t i = 0; i < slots_->size(); ++i) {
    const Slot& slot = (*slots_)[i];
    const at::Tensor data = slot.module_tensor.to(slot.source.device(), slot.source.scalar_type());
    state.put(i, data.variable_data());
  }
}

std::vector<NamedTensor> AveragedTensors::raw(const SwapState& state) const {
  std::vector<NamedTensor> raw;
  for (const auto& [name, i] : names_) {
    raw.push_back({name, state.items[i].raw, (*slots_)[i].buffer});
  }
  return raw;
}

torch::OrderedDict<std::string, at::Tensor> AveragedTensors::averages() const {
  torch::OrderedDict<std::string, at::Tensor> averages("name");
  for (const auto& [name, i] : names_) averages.insert(name, (*slots_)[i].average);
  return averages;
}

std::vector<NamedTensor> AveragedTensors::module_tensors() const {
  std::vector<NamedTensor> tensors;
  for (const auto& [name, i] : names_) {
    tensors.push_back({name, (*slots_)[i].module_tensor, (*slots_)[i].buffer});
  }
  return tensors;
}

LoadReport AveragedTensors::load(const std::vector<NamedTensor>& values) {
  LoadReport report;
  std::set<std::string> given;
  const std::unordered_map<std::string, size_t> slot_of(names_.begin(), names_.end());
  for (const NamedTensor& value : values) {
    given.insert(value.name);
    const auto found = slot_of.find(value.name);
    if (found == slot_of.end()) {
      report.unexpected.push_back(value.name);
      continue;
    }
    const Slot& slot = (*slots_)[found->second];
    if (slot.average.sizes() != value.tensor.sizes()) {
      report.mismatched.push_back(fmt::format("{} [{}] instead of [{}]", value.name,
                                              fmt::join(value.tensor.sizes(), ", "),
                                              fmt::join(slot.average.sizes(), ", ")));
      continue;
    }
    if (!same_kind(slot.average, value.tensor)) {
      report.mismatched.push_back(fmt::format("{} in {} instead of {}", value.name,
                                              at::toString(value.tensor.scalar_type()),
                                              at::toString(slot.average.scalar_type())));
      continue;
    }
    slot.average.copy_(value.tensor);
    if (slot.residual.defined()) slot.residual.zero_();
  }
  for (const auto& [name, i] : names_) {
    if (!given.count(name)) report.missing.push_back(name);
  }
  return report;
}

std::vector<NamedTensor> AveragedTensors::residuals() const {
  std::vector<NamedTensor> residuals;
  for (const auto& [name, i] : names_) {
    const Slot& slot = (*slots_)[i];
    if (slot.residual.defined()) residuals.push_back({name, slot.residual, slot.buffer});
  }
  return residuals;
}

void AveragedTensors::load_residuals(const std::vector<NamedTensor>& values) {
  const std::unordered_map<std::string, size_t> slot_of(names_.begin(), names_.end());
  for (const NamedTensor& value : values) {
    const auto found = slot_of.find(value.name);
    if (found == slot_of.end()) continue;
    const at::Tensor& residual = (*slots_)[found->second].residual;
    if (residual.defined() && residual.sizes() == value.tensor.sizes()) {
      residual.copy_(value.tensor);
    }
  }
}

const std::string* AveragedTensors::find_nonfinite() const {
  const auto bad = std::find_if(slots_->begin(), slots_->end(), [&](const Slot& slot) {
    return is_for_averaging(slot, settings_.update_buffers) && is_averageable(slot.source) &&
           !are_finite_by_aten({slot.source});
  });
  return bad == slots_->end() ? nullptr : &bad->name;
}

}  // namespace polyak
