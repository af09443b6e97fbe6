// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/plan.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include "polyak/averaging/by_aten.h"

namespace polyak {
namespace {

// Tensors to check per thread; fewer are done before a second thread has woken up.
constexpr int64_t kTensorsAThread = 1024;

std::optional<kernels::DType> kernel_type(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return kernels::DType::float64;
    case at::kFloat:
      return kernels::DType::float32;
    case at::kHalf:
      return kernels::DType::float16;
    case at::kBFloat16:
      return kernels::DType::bfloat16;
    default:
      return std::nullopt;
  }
}

/// A number that changes if the elements' layout changes. For a contiguous tensor the count is
/// enough, and it is next to what else is read here: sizes would be one more cache line.
uint64_t layout_of(const c10::TensorImpl& tensor) {
  if (tensor.is_contiguous()) return static_cast<uint64_t>(tensor.numel());
  uint64_t hash = 1;
  for (const int64_t size : tensor.sizes()) hash = hash * 1000003 + static_cast<uint64_t>(size);
  for (const int64_t stride : tensor.strides()) {
    hash = hash * 1000003 + static_cast<uint64_t>(stride);
  }
  return hash;
}

/// Whether elements at the same offset in memory correspond.
bool same_order(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  return (a.is_contiguous() && b.is_contiguous()) ||
         (a.strides() == b.strides() && a.is_non_overlapping_and_dense());
}

std::optional<kernels::Span> span_of(const Slot& slot, const at::Tensor& source) {
  const auto average_type = kernel_type(slot.average.scalar_type());
  const auto source_type = kernel_type(source.scalar_type());
  if (!average_type || !source_type || !kernels::supports_average(*average_type)) {
    return std::nullopt;
  }
  const c10::Device device = slot.average.device();
  if (source.device() != device) return std::nullopt;
  if (!device.is_cpu() && !DeviceTables::has_kernel(device)) return std::nullopt;
  // A lazy negation is a flag that is not yet applied to the numbers.
  if (source.is_neg() || !same_order(source, slot.average)) return std::nullopt;
  kernels::Span span{slot.average.data_ptr(), source.data_ptr(), source.numel(), *average_type,
                     *source_type};
  if (slot.residual.defined()) {
    if (!same_order(slot.average, slot.residual)) return std::nullopt;
    span.residual = slot.residual.data_ptr<int16_t>();
  }
  return span;
}

/// For all_finite(), which only reads the source.
std::optional<kernels::Span> span_to_check(const at::Tensor& source) {
  const auto type = kernel_type(source.scalar_type());
  if (!type || !source.is_cpu() || !source.is_non_overlapping_and_dense()) return std::nullopt;
  return kernels::Span{source.data_ptr(), source.data_ptr(), source.numel(),
                       kernels::supports_average(*type) ? *type : kernels::DType::float32, *type};
}

}  // namespace

void Plan::Copies::add(const Slot& slot, const at::Tensor& source, size_t i,
                       std::vector<kernels::CudaCopy>* on_gpu) {
  const bool same_bytes = source.device() == slot.average.device() && !source.is_neg() &&
                          !source.is_conj() && source.scalar_type() == slot.average.scalar_type() &&
                          same_order(source, slot.average);
  if (same_bytes && on_gpu) {
    on_gpu->push_back(
        {slot.average.data_ptr(), source.data_ptr(), static_cast<int64_t>(source.nbytes())});
  } else if (same_bytes && source.is_cpu()) {
    plain.push_back({slot.average.data_ptr(), source.data_ptr(), source.nbytes()});
  } else {
    by_aten.push_back(i);
  }
}

void Plan::Copies::copy_plain() const {
  for (const Bytes& bytes : plain) {
    if (bytes.size > 0) std::memcpy(bytes.to, bytes.from, bytes.size);
  }
}

void Plan::Copies::copy_by_aten(const Slots& slots) const {
  for (const size_t i : by_aten) slots[i].average.copy_(slots[i].source);
}

Plan::Plan(std::shared_ptr<const Slots> slots, bool check_finite, bool check_buffers)
    : slots_(std::move(slots)) {
  std::vector<kernels::Span> averaged;
  std::vector<kernels::Span> averaged_buffers;
  std::vector<kernels::Span> checked;
  for (size_t i = 0; i < slots_->size(); ++i) {
    const Slot& slot = (*slots_)[i];
    const c10::TensorImpl* from = slot.source.unsafeGetTensorImpl();
    const c10::TensorImpl* to = slot.average.unsafeGetTensorImpl();
    seen_.push_back(
        {from, to, from->data(), to->unsafe_storage(), layout_of(*from), from->dtype()});
    on_gpu_ = on_gpu_ || DeviceTables::has_kernel(slot.source.device()) ||
              DeviceTables::has_kernel(slot.average.device());
    if (slot.shared || slot.mode == TensorMode::keep) continue;
    const bool averages = is_averaged(slot);
    const at::Tensor source = source_on_host(slot, averages);
    const auto span = averages ? span_of(slot, source) : std::nullopt;
    if (check_finite && averages && (check_buffers || !slot.buffer)) {
      // The whole model, so that processes with parts of an average decide alike.
      const auto whole = slot.part ? span_to_check(slot.source) : span;
      whole&& slot.source.is_cpu() ? checked.push_back(*whole) : checked_by_aten_.push_back(i);
    }
    const c10::Device device = slot.average.device();
    kernels::CudaRow* on_gpu =
        DeviceTables::has_kernel(device) ? &on_gpus_[device.index()] : nullptr;
    if (slot.mode != TensorMode::average) {
      buffers_.add(slot, source, i, on_gpu ? &on_gpu->copied : nullptr);
    } else if (!averages) {
      integers_.add(slot, source, i, on_gpu ? &on_gpu->copied_with_it : nullptr);
    } else if (span && on_gpu) {
      on_gpu->averaged.push_back(*span);
    } else if (span) {
      // Buffers last, so that averages with and without them start with the same chunks.
      (slot.buffer ? averaged_buffers : averaged).push_back(*span);
    } else {
      by_aten_.push_back(i);
    }
  }
  averaged.insert(averaged.end(), averaged_buffers.begin(), averaged_buffers.end());
  averaged_ = ChunkTable(averaged);
  checked_ = ChunkTable(checked);
}

bool Plan::Seen::is_current() const {
  return source->data() == source_data && layout_of(*source) == layout &&
         source->dtype() == source_type &&
         average->unsafe_storage().unsafeGetStorageImpl() == average_storage.unsafeGetStorageImpl();
}

bool Plan::is_current() const {
  // For ten thousand small tensors this takes nearly as long as their update: five cache lines
  // each, which no processor predicts (prefetching them did not help). So threads share it too.
  std::atomic<bool> current{true};
  const auto count = static_cast<int64_t>(seen_.size());
  at::parallel_for(0, count, kTensorsAThread, [&](int64_t begin, int64_t end) {
    const bool same = std::all_of(seen_.begin() + begin, seen_.begin() + end,
                                  [](const Seen& seen) { return seen.is_current(); });
    if (!same) current = false;
  });
  return current;
}

bool Plan::model_is_finite() const {
  std::atomic<bool> finite{true};
  checked_.share_out([&](size_t first, size_t last) {
    if (!kernels::all_finite(checked_.data() + first, last - first)) finite = false;
  });
  if (!finite || checked_by_aten_.empty()) return finite;
  std::vector<at::Tensor> sources;
  sources.reserve(checked_by_aten_.size());
  for (const size_t i : checked_by_aten_) sources.push_back((*slots_)[i].source);
  return are_finite_by_aten(sources);
}

bool Plan::can_be_captured(bool always_averages) const {
  return !offload_ && averaged_.size() == 0 && by_aten_.empty() && integers_.plain.empty() &&
         buffers_.plain.empty() && (always_averages || integers_.by_aten.empty());
}

at::Tensor Plan::source_on_host(const Slot& slot, bool averaged) {
  const at::Tensor source = source_of(slot);
  const bool travels = slot.source.is_cuda() && slot.average.is_cpu() &&
                       (!averaged || kernel_type(slot.source.scalar_type())) &&
                       slot.source.is_non_overlapping_and_dense() && !slot.source.is_neg() &&
                       !slot.source.is_conj();
  if (!travels) return source;
  if (!offload_) offload_ = std::make_unique<Offload>(slot.source.device());
  if (source.device() != offload_->device()) return source;  // a model on two devices
  return offload_->add(source, slot.buffer || slot.mode != TensorMode::average);
}

void Plan::run_aten(double weight) const {
  for (const size_t i : by_aten_) lerp_by_aten((*slots_)[i], weight);
  integers_.copy_by_aten(*slots_);
}

}  // namespace polyak
