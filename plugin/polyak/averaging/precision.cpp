// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/precision.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "polyak/averaging/by_aten.h"

namespace polyak {
namespace {

// Warn if values that differ from their source by less than this fraction do not move.
constexpr double kStall = 0.05;

bool is_stalled(at::ScalarType type, bool compensated, double weight) {
  return weight > 0 && rounding_of(type, compensated) / weight >= kStall;
}

std::string text_of_stall(at::ScalarType type, bool compensated, double weight) {
  const double stuck = rounding_of(type, compensated) / weight;
  return fmt::format(
      "with the weight {:.3g} an average in {} hardly moves: values within {:.2g} % of the "
      "model's stay where they are, since an update smaller than half a unit in the last place is "
      "rounded away; use {} or a larger momentum",
      weight, at::toString(type), 100 * stuck,
      is_half(type)                        ? "a float32 average"
      : compensated || type == at::kDouble ? "fewer updates (interval)"
                                           : "precision: compensated");
}

}  // namespace

bool is_half(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16;
}

double rounding_of(at::ScalarType type, bool compensated) {
  switch (type) {
    case at::kHalf:
      return 0x1p-11;
    case at::kBFloat16:
      return 0x1p-8;
    case at::kFloat:
      return compensated ? 0x1p-40 : 0x1p-24;
    default:
      return 0x1p-53;
  }
}

at::Tensor exact_value(const Slot& slot) {
  return slot.residual.defined() && slot.average.scalar_type() == at::kFloat
             ? widen_compensated(slot.average, slot.residual.to(slot.average.device()))
             : slot.average.detach();
}

void set_module_tensor(Slot& slot, const at::Tensor& data) {
  if (!slot.is_apart()) slot.average = slot.module_tensor.variable_data();  // uncast so far
  slot.module_tensor.set_data(data);
  for (const at::Tensor& alias : slot.aliases) alias.set_data(slot.module_tensor.variable_data());
}

void settle_precision(Slot& slot, Precision precision) {
  const bool averaged = slot.mode == TensorMode::average && slot.module_tensor.is_floating_point();
  const at::ScalarType dtype = slot.module_tensor.scalar_type();
  const at::ScalarType wanted = !averaged                         ? dtype
                                : precision == Precision::float64 ? at::kDouble
                                : is_half(dtype)                  ? at::kFloat
                                                                  : dtype;
  const bool apart = wanted != dtype;
  const bool compensated = averaged && precision == Precision::compensated && wanted == at::kFloat;
  const c10::Device device = slot.module_tensor.device();
  if (slot.is_apart() == apart && slot.average.scalar_type() == wanted &&
      slot.average.device() == device && slot.residual.defined() == compensated &&
      (!compensated || slot.residual.device() == device)) {
    return;
  }
  const at::Tensor value = exact_value(slot);
  if (apart) {
    slot.average = value.to(device, wanted, false, /*copy=*/true);
  } else {
    if (slot.is_apart()) slot.module_tensor.copy_(value);
    slot.average = slot.module_tensor;
  }
  slot.residual = compensated ? at::zeros_like(slot.average, at::kShort) : at::Tensor();
  if (compensated && value.scalar_type() == at::kDouble) {
    narrow_compensated(value.to(slot.average.device()), slot.average, slot.residual);
  }
}

std::string StallCheck::check(const Slots& slots, double weight) {
  if (checked_) return {};
  checked_ = true;
  for (const Slot& slot : slots) {
    if (!slot.average.is_floating_point() || !is_averaged(slot)) continue;
    const at::ScalarType type = slot.average.scalar_type();
    const bool compensated = slot.residual.defined();
    if (is_stalled(type, compensated, weight)) return text_of_stall(type, compensated, weight);
  }
  return {};
}

std::string StallCheck::check_half(const at::Tensor& averaged, double weight) {
  const at::ScalarType type = averaged.scalar_type();
  if (half_checked_ || !is_half(type)) return {};
  half_checked_ = true;
  return is_stalled(type, false, weight) ? text_of_stall(type, false, weight) : std::string();
}

}  // namespace polyak
