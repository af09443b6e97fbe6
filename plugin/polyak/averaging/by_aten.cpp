// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/by_aten.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <unordered_map>

namespace polyak {
namespace {

/// The unit of the residual of each average, as float64; 0 where nothing is kept.
at::Tensor unit_of_residual(const at::Tensor& average) {
  const at::Tensor bits = average.contiguous().view(at::kInt);
  const at::Tensor exponent = bits.bitwise_and(0x7f800000).div(1 << 23, "floor");
  const at::Tensor unit = at::pow(2.0, (exponent - (127 + 39)).to(at::kDouble));
  return unit.masked_fill(exponent.lt(40).logical_or(exponent.eq(255)), 0);
}

}  // namespace

void lerp_by_aten(const at::Tensor& average, const at::Tensor& source, double weight) {
  if (weight == 0) return;  // not 0 * infinity
  const at::Tensor value = source.to(average.device(), average.scalar_type());
  if (weight < 0.5) {
    average.add_(value - average, weight);
  } else {
    average.copy_(value - (value - average) * (1.0 - weight));
  }
}

void lerp_by_aten(const Slot& slot, double weight) {
  const at::Tensor source = source_of(slot);
  if (!slot.residual.defined()) return lerp_by_aten(slot.average, source, weight);
  const at::Tensor wide = widen_compensated(slot.average, slot.residual);
  lerp_by_aten(wide, source, weight);
  narrow_compensated(wide, slot.average, slot.residual);
}

at::Tensor widen_compensated(const at::Tensor& average, const at::Tensor& residual) {
  return average.to(at::kDouble) + residual.to(at::kDouble) * unit_of_residual(average);
}

void narrow_compensated(const at::Tensor& wide, const at::Tensor& average,
                        const at::Tensor& residual) {
  average.copy_(wide);
  const at::Tensor unit = unit_of_residual(average);
  const at::Tensor units = ((wide - average.to(at::kDouble)) / unit).round();
  residual.copy_(units.masked_fill(unit.eq(0), 0).clamp(-32768, 32767));
}

bool are_finite_by_aten(const std::vector<at::Tensor>& tensors) {
  std::unordered_map<c10::Device, std::vector<at::Tensor>> answers;
  for (const at::Tensor& tensor : tensors) {
    answers[tensor.device()].push_back(at::isfinite(tensor).all());
  }
  return std::all_of(answers.begin(), answers.end(), [](const auto& of_device) {
    return at::stack(of_device.second).all().template item<bool>();
  });
}

}  // namespace polyak
