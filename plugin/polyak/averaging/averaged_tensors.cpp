// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/averaged_tensors.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "polyak/averaging/average_memory.h"
#include "polyak/averaging/by_aten.h"
#include "polyak/averaging/chunk_table.h"
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

/// Whether both are the same elements in memory.
bool are_one(const at::Tensor& a, const at::Tensor& b) {
  return a.is_alias_of(b) && a.data_ptr() == b.data_ptr() && a.sizes() == b.sizes() &&
         a.strides() == b.strides() && a.scalar_type() == b.scalar_type();
}

/// Gives the slot's tensors in the averaged module this data.
void set_data(Slot& slot, const at::Tensor& data) {
  slot.module_tensor.set_data(data);
  for (const at::Tensor& alias : slot.aliases) alias.set_data(slot.module_tensor.variable_data());
  slot.average = slot.module_tensor;
  slot.residual = at::Tensor();
}

/// Makes the model's storage that of the slot.
void share(Slot& slot) {
  set_data(slot, slot.source.variable_data());
  slot.followed_dtype = slot.source.scalar_type();
  slot.followed_device = slot.source.device();
  slot.shared = true;
}

/// Gives a shared slot a copy of the model's tensor, where the shared one is.
void own(Slot& slot) {
  const at::TensorOptions place = slot.module_tensor.options();
  set_data(slot, slot.source.detach().to(place.device(), slot.module_tensor.scalar_type()).clone());
  slot.shared = false;
}

}  // namespace

AveragedTensors::AveragedTensors(Settings settings) : settings_(std::move(settings)) {
  if (!settings_.scope.covers_all()) scope_.emplace(settings_.scope, settings_.update_buffers);
}

// ---- scope

TensorMode AveragedTensors::mode_of(const NamedTensor& item) const {
  if (scope_) return scope_->mode_of(item.name, item.buffer);
  return item.buffer && !settings_.update_buffers ? TensorMode::copy : TensorMode::average;
}

/// A pattern that matches nothing, or one of two names of a tensor, is a mistake.
void AveragedTensors::check_scope(const std::vector<NamedTensor>& tensors) const {
  if (!scope_ || scope_checked_) return;
  std::vector<std::string> parameters, buffers;
  std::unordered_map<const void*, const NamedTensor*> first;
  for (const NamedTensor& item : tensors) (item.buffer ? buffers : parameters).push_back(item.name);
  scope_->check_matched(parameters, buffers);
  for (const NamedTensor& item : tensors) {
    const auto [known, is_new] = first.emplace(item.tensor.unsafeGetTensorImpl(), &item);
    const NamedTensor& other = *known->second;
    if (is_new || other.buffer != item.buffer || mode_of(other) == mode_of(item)) continue;
    fail<ConfigError>(
        "{} and {} are one tensor, but the patterns give it the modes '{}' and '{}'; write "
        "patterns that match both names or neither",
        other.name, item.name, tensor_mode_name(mode_of(other)), tensor_mode_name(mode_of(item)));
  }
}

/// Whether the average of this tensor of the model is on its device.
bool AveragedTensors::is_at_home(const at::Tensor& source) const {
  if (!settings_.device) return true;
  const c10::Device device = source.device();
  return settings_.device->type() == device.type() &&
         (!settings_.device->has_index() || settings_.device->index() == device.index());
}

AverageCoverage AveragedTensors::coverage() const {
  AverageCoverage coverage;
  for (const Slot& slot : *slots_) {
    AverageCoverage::Tensor tensor;
    tensor.name = slot.name;
    tensor.buffer = slot.buffer;
    tensor.mode = slot.mode;
    tensor.shared = slot.shared;
    tensor.numbers = slot.source.numel();
    tensor.bytes_of_model = static_cast<int64_t>(slot.source.nbytes());
    if (!slot.shared) {
      tensor.bytes = static_cast<int64_t>(slot.average.nbytes());
      if (slot.is_apart()) tensor.bytes += static_cast<int64_t>(slot.module_tensor.nbytes());
      if (slot.residual.defined()) tensor.bytes += static_cast<int64_t>(slot.residual.nbytes());
    }
    coverage.tensors.push_back(std::move(tensor));
  }
  return coverage;
}

// ---- binding

bool AveragedTensors::rebind(const std::vector<NamedTensor>& tensors,
                             const std::string& model_class, bool same_model) {
  std::unordered_map<std::string, const NamedTensor*> by_name;
  std::unordered_set<const void*> distinct;
  for (const NamedTensor& item : tensors) {
    by_name.emplace(item.name, &item);
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
    const NamedTensor& item = *found->second;
    if (!same_model) check_shape(name, item.tensor, slot.average);
    check_kind(slot, item.tensor);
    const auto first = by_name.find(slot.name);
    same = same && first != by_name.end() && item.tensor.is_same(first->second->tensor) &&
           item.buffer == slot.buffer && item.tensor.sizes() == slot.average.sizes();
  }
  if (!missing.empty() && !same_model) {
    fail<Error>("the model {} lacks averaged tensors: {}", model_class, fmt::join(missing, ", "));
  }
  if (!same || !missing.empty()) return false;
  for (Slot& slot : *slots_) {
    const at::Tensor& source = by_name.at(slot.name)->tensor;
    if (slot.source.is_same(source)) continue;
    // TorchScript assigns buffers in each forward pass.
    if (same_model && !slot.buffer) changes_.replaced.push_back(slot.name);
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

  check_scope(tensors);

  Slots slots;
  Names names;
  std::unordered_map<const void*, const Slot*> had_tensor;
  for (const Slot& slot : *slots_) had_tensor.emplace(slot.source.unsafeGetTensorImpl(), &slot);
  const auto replaced = replaced_names(*slots_, names_, tensors);
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
      slots.push_back({item.name,
                       item.tensor,
                       mine,
                       mine,
                       {},
                       item.buffer,
                       {},
                       item.tensor.scalar_type(),
                       item.tensor.device(),
                       mode_of(item)});
      Slot& slot = slots.back();
      const auto by_tensor = had_tensor.find(item.tensor.unsafeGetTensorImpl());
      const auto by_name = replaced.find(item.name);
      set_frozen(slot, by_tensor != had_tensor.end() ? by_tensor->second
                       : by_name != replaced.end()   ? &(*slots_)[by_name->second]
                                                     : nullptr);
      if (slot.mode == TensorMode::share && is_at_home(item.tensor)) {
        share(slot);
      } else {
        mine.set_data(item.tensor.detach().to(place).clone());
      }
    } else {
      Slot& slot = slots[known->second];
      mine.set_data(slot.module_tensor.variable_data());  // tied here as there
      slot.aliases.push_back(mine);
    }
  }

  const auto slots_before = std::exchange(slots_, std::make_shared<Slots>(std::move(slots)));
  const Names names_before = std::exchange(names_, std::move(names));
  scope_checked_ = true;
  watches_gradients_ =
      std::any_of(slots_->begin(), slots_->end(), [](const Slot& slot) { return slot.frozen; });
  settle_precision();
  gather_averages(*slots_);
  keep_averages(*slots_before, names_before);
}

/// Shares a parameter that is frozen, unless it was averaged before: then it keeps its average.
void AveragedTensors::set_frozen(Slot& slot, const Slot* before) const {
  if (!settings_.scope.share_frozen || slot.buffer || slot.mode != TensorMode::average) return;
  if (slot.source.requires_grad()) return;
  slot.frozen = !before || before->frozen;
  if (!before || before->mode == TensorMode::share) slot.mode = TensorMode::share;
}

/// When layers came, went or were renamed, or ties changed, the averages of the others continue.
void AveragedTensors::keep_averages(const Slots& before, const Names& names_before) {
  const std::unordered_map<std::string, size_t> had_name(names_before.begin(), names_before.end());
  std::unordered_map<const void*, size_t> had_tensor;
  for (size_t i = 0; i < before.size(); ++i) {
    had_tensor.emplace(before[i].source.unsafeGetTensorImpl(), i);
  }
  const std::unordered_map<std::string, size_t> names_now(names_.begin(), names_.end());
  std::vector<NamedTensor> now;
  for (const auto& [name, i] : names_) now.push_back({name, (*slots_)[i].source, false});
  const auto replaced = replaced_names(before, names_before, now);
  std::unordered_set<std::string> other_name;
  std::vector<bool> is_new(slots_->size(), true);
  for (size_t i = 0; i < slots_->size(); ++i) {
    const Slot& slot = (*slots_)[i];
    const auto same_tensor = had_tensor.find(slot.source.unsafeGetTensorImpl());
    const auto same_name = had_name.find(slot.name);
    const bool by_tensor = same_tensor != had_tensor.end();
    if (!by_tensor && !replaced.count(slot.name)) continue;
    const size_t old = by_tensor ? same_tensor->second : same_name->second;
    const Slot& had = before[old];
    if (slot.average.sizes() != had.average.sizes()) continue;
    if (!same_kind(slot.average, had.average)) continue;
    is_new[i] = false;
    const auto name_now = names_now.find(had.name);
    const bool lost_name = name_now == names_now.end() || name_now->second != i;
    if (by_tensor && lost_name && (same_name == had_name.end() || same_name->second != old)) {
      changes_.renamed.push_back(fmt::format("{} -> {}", had.name, slot.name));
      other_name.insert(had.name);
    }
    if (slot.shared || had.mode == TensorMode::share) continue;  // the model's value
    const bool same_dtype = slot.average.scalar_type() == had.average.scalar_type();
    if (slot.residual.defined() && had.residual.defined() && same_dtype) {
      slot.residual.copy_(had.residual);
    }
    slot.average.copy_(same_dtype ? had.average : exact_value(had));
  }
  if (names_before.empty()) return;
  for (const auto& [name, i] : names_) {
    if (is_new[i]) (had_name.count(name) ? changes_.restarted : changes_.added).push_back(name);
  }
  for (const auto& [name, i] : names_before) {
    if (!names_now.count(name) && !other_name.count(name)) changes_.removed.push_back(name);
  }
  changes_.ties = before.size() != slots_->size();
}

/// Whether the slot's average can continue with the source's kind of numbers.
bool AveragedTensors::could_follow(const Slot& slot, const at::Tensor& source) const {
  // LibTorch casts a module's integers too. They are copied, as are buffers.
  return !is_averaged(slot) || same_kind(source, slot.average);
}

void AveragedTensors::check_kind(const Slot& slot, const at::Tensor& source) const {
  if (could_follow(slot, source)) return;
  fail<Error>(
      "{}: is {} in the model, but its average is {}; build a new average for a model of "
      "another dtype",
      slot.name, at::toString(source.scalar_type()), at::toString(slot.average.scalar_type()));
}

bool AveragedTensors::is_reshaped() const {
  return std::any_of(slots_->begin(), slots_->end(),
                     [](const Slot& slot) { return slot.source.sizes() != slot.average.sizes(); });
}

void AveragedTensors::check_kinds() const {
  for (const Slot& slot : *slots_) check_kind(slot, slot.source);
}

/// Several elements of an expanded tensor share memory: values cannot be written there.
void AveragedTensors::check_writable(const char* what, const char* instead) const {
  for (const Slot& slot : *slots_) {
    if (slot.shared) continue;
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

/// Makes the slot share the model's storage where device and dtype allow it.
/// @return whether it does; otherwise the slot is a copy
bool AveragedTensors::follow_shared(Slot& slot) const {
  const at::Tensor& source = slot.source;
  // A cast of the average alone holds until the model is cast.
  const bool cast = source.scalar_type() != slot.followed_dtype;
  const bool same_dtype = cast || source.scalar_type() == slot.module_tensor.scalar_type();
  const bool moved = source.device() != slot.followed_device && is_at_home(source);
  if (!same_dtype || (!moved && source.device() != slot.module_tensor.device())) {
    if (slot.shared) own(slot);
    return false;
  }
  // While another average is in the model, its storage is not the model's own.
  if (!SwapState::is_swapped(source) && !(slot.shared && are_one(slot.module_tensor, source))) {
    share(slot);
  }
  return true;
}

void AveragedTensors::follow_model() {
  bool followed = false;
  for (Slot& slot : *slots_) {
    if (slot.mode == TensorMode::share) {
      const void* const before = slot.module_tensor.data_ptr();
      const bool shared = follow_shared(slot);
      followed = followed || before != slot.module_tensor.data_ptr();
      if (shared) continue;
    }
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
    polyak::settle_precision(slot, settings_.precision);
  }
  ++revision_;
}

void AveragedTensors::move(const std::function<at::Tensor(const at::Tensor&)>& moved) {
  for (Slot& slot : *slots_) {
    const at::Tensor data = moved(slot.module_tensor);
    if (slot.shared && data.is_alias_of(slot.module_tensor)) continue;
    slot.shared = false;
    set_module_tensor(slot, data);
  }
  settle_precision();
  gather_averages(*slots_);
}

void AveragedTensors::settle_frozen() {
  bool changed = false;
  watches_gradients_ = false;
  for (Slot& slot : *slots_) {
    if (!slot.frozen) continue;
    if (slot.source.requires_grad()) {
      if (slot.mode == TensorMode::share) own(slot);
      slot.mode = TensorMode::average;
      slot.frozen = false;
      changed = true;
      continue;
    }
    if (slot.mode == TensorMode::average) {  // loaded
      const at::Tensor value = exact_value(slot);
      const at::Tensor now = slot.source.detach().to(value.device(), value.scalar_type());
      slot.frozen = value.sizes() == now.sizes() && at::equal(value, now);
      if (!slot.frozen) continue;
      slot.mode = TensorMode::share;
      if (is_at_home(slot.source)) share(slot);
      changed = true;
    }
    watches_gradients_ = true;
  }
  if (!changed) return;
  settle_precision();
  gather_averages(*slots_);
}

void AveragedTensors::unshare() {
  for (Slot& slot : *slots_) {
    if (slot.mode != TensorMode::share) continue;
    if (slot.shared) own(slot);
    if (slot.frozen) slot.mode = TensorMode::average;
  }
  settle_precision();
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
    if (slot.shared) continue;
    slot.average.copy_(source_of(slot));
    if (slot.residual.defined()) slot.residual.zero_();
  }
}

void AveragedTensors::copy_to_model() const {
  for (const Slot& slot : *slots_) {
    if (!slot.shared) slot.source.copy_(slot.average);
  }
}

void AveragedTensors::put_into_model(SwapState& state) const {
  state.items.reserve(slots_->size());
  for (const Slot& slot : *slots_) {
    slot.shared ? state.leave(slot.source) : state.keep(slot.source);
  }
  state.begin();
  for (size_t i = 0; i < slots_->size(); ++i) {
    const Slot& slot = (*slots_)[i];
    if (slot.shared) continue;
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
  // The frozen ones may have been averaged before; settle_frozen() shares those that were not.
  for (Slot& slot : *slots_) {
    if (!slot.frozen || slot.mode != TensorMode::share) continue;
    if (slot.shared) own(slot);
    slot.mode = TensorMode::average;
    ++revision_;
  }
  if (watches_gradients_) settle_precision();
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
    if (slot.shared) continue;  // the model's own value
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
  const auto bad = std::find_if(slots_->begin(), slots_->end(), [](const Slot& slot) {
    return slot.mode == TensorMode::average && is_averageable(slot.source) &&
           !are_finite_by_aten({slot.source});
  });
  return bad == slots_->end() ? nullptr : &bad->name;
}

const std::string* AveragedTensors::find_nonfinite_average() const {
  std::vector<kernels::Span> spans;
  std::vector<size_t> by_kernel;  // the slots of `spans`
  std::vector<size_t> by_aten;
  for (size_t i = 0; i < slots_->size(); ++i) {
    const Slot& slot = (*slots_)[i];
    const at::Tensor& average = slot.average;
    if (!is_averaged(slot)) continue;
    const bool is_double = average.scalar_type() == at::kDouble;
    if (average.is_cpu() && average.is_non_overlapping_and_dense() &&
        (is_double || average.scalar_type() == at::kFloat)) {
      const auto type = is_double ? kernels::DType::float64 : kernels::DType::float32;
      spans.push_back({average.data_ptr(), average.data_ptr(), average.numel(), type, type});
      by_kernel.push_back(i);
    } else {
      by_aten.push_back(i);
    }
  }
  const ChunkTable chunks(spans);
  std::atomic<bool> finite{true};
  chunks.share_out([&](size_t first, size_t last) {
    if (!kernels::all_finite(chunks.data() + first, last - first)) finite = false;
  });
  for (size_t i = 0; !finite && i < spans.size(); ++i) {
    if (!kernels::all_finite(&spans[i], 1)) return &(*slots_)[by_kernel[i]].name;
  }
  std::vector<at::Tensor> others;
  others.reserve(by_aten.size());
  for (const size_t i : by_aten) others.push_back((*slots_)[i].average);
  if (others.empty() || are_finite_by_aten(others)) return nullptr;  // waits for a GPU once
  const auto bad = std::find_if(by_aten.begin(), by_aten.end(), [&](size_t i) {
    return !are_finite_by_aten({(*slots_)[i].average});
  });
  return bad == by_aten.end() ? nullptr : &(*slots_)[*bad].name;
}

}  // namespace polyak
