// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/mixed_precision.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/version.h>

#include <algorithm>

namespace polyak {
namespace {

constexpr double kGrowth = 2.0;
constexpr double kBackoff = 0.5;
constexpr int64_t kGrowthInterval = 2000;

// LibTorch 2.4 made one function for all kinds of devices.
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 4)
bool is_enabled(c10::DeviceType type) {
  return at::autocast::is_autocast_enabled(type);
}
void set_enabled(c10::DeviceType type, bool enabled) {
  at::autocast::set_autocast_enabled(type, enabled);
}
at::ScalarType dtype_of(c10::DeviceType type) {
  return at::autocast::get_autocast_dtype(type);
}
void set_dtype(c10::DeviceType type, at::ScalarType dtype) {
  at::autocast::set_autocast_dtype(type, dtype);
}
#else
bool is_enabled(c10::DeviceType type) {
  return type == c10::kCPU ? at::autocast::is_cpu_enabled() : at::autocast::is_enabled();
}
void set_enabled(c10::DeviceType type, bool enabled) {
  type == c10::kCPU ? at::autocast::set_cpu_enabled(enabled) : at::autocast::set_enabled(enabled);
}
at::ScalarType dtype_of(c10::DeviceType type) {
  return type == c10::kCPU ? at::autocast::get_autocast_cpu_dtype()
                           : at::autocast::get_autocast_gpu_dtype();
}
void set_dtype(c10::DeviceType type, at::ScalarType dtype) {
  type == c10::kCPU ? at::autocast::set_autocast_cpu_dtype(dtype)
                    : at::autocast::set_autocast_gpu_dtype(dtype);
}
#endif

}  // namespace

AutocastScope::AutocastScope(std::optional<c10::ScalarType> dtype, c10::Device device)
    : dtype_(dtype), device_(device) {
  if (!dtype_) return;
  was_enabled_ = is_enabled(device_.type());
  old_dtype_ = dtype_of(device_.type());
  set_dtype(device_.type(), *dtype_);
  set_enabled(device_.type(), true);
  at::autocast::increment_nesting();
}

AutocastScope::~AutocastScope() {
  if (!dtype_) return;
  // Weights that were converted are kept until the outermost scope ends; a step changes them.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  set_enabled(device_.type(), was_enabled_);
  set_dtype(device_.type(), old_dtype_);
}

bool LossScale::unscale(const std::vector<at::Tensor>& parameters) const {
  const at::NoGradGuard no_grad;
  at::Tensor finite;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& gradient = parameter.grad();
    if (!gradient.defined()) continue;
    gradient.div_(scale_);
    const at::Tensor own = gradient.isfinite().all();
    finite = finite.defined() ? finite.logical_and(own.to(finite.device())) : own;
  }
  return !finite.defined() || finite.item<bool>();
}

void LossScale::update(bool finite) {
  if (!is_dynamic_) return;
  if (!finite) {
    scale_ *= kBackoff;
    growth_ = 0;
  } else if (++growth_ == kGrowthInterval) {
    scale_ *= kGrowth;
    growth_ = 0;
  }
}

Value LossScale::state_dict() const {
  Value state = Value::dict();
  state.set("scale", scale_);
  state.set("growth_factor", kGrowth);
  state.set("backoff_factor", kBackoff);
  state.set("growth_interval", kGrowthInterval);
  state.set("_growth_tracker", growth_);
  return state;
}

void LossScale::load_state_dict(const Value& state) {
  if (!is_dynamic_) return;
  scale_ = state.at("scale").as_real();
  growth_ = state.at("_growth_tracker").as_int();
}

}  // namespace polyak
