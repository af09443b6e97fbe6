// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/plan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>

#include "polyak/averaging/by_aten.h"

namespace polyak {
namespace {

// Elements: small enough that threads share a layer evenly and that several averages find the
// source in the cache, large enough that a chunk's call is free.
constexpr int64_t kChunkElements = 32768;
// What a chunk costs beside its bytes, in bytes: ten thousand small tensors are work too.
constexpr int64_t kChunkOverhead = 512;
// Tensors whose storage is looked at; fewer are done before a second thread has woken up.
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

/// A number that changes when elements come to lie elsewhere. Of a contiguous tensor the count says
/// all, and it stands beside what else is read here: sizes would be one more cache line.
uint64_t layout_of(const c10::TensorImpl& tensor) {
  if (tensor.is_contiguous()) return static_cast<uint64_t>(tensor.numel());
  uint64_t hash = 1;
  for (const int64_t size : tensor.sizes()) hash = hash * 1000003 + static_cast<uint64_t>(size);
  for (const int64_t stride : tensor.strides()) {
    hash = hash * 1000003 + static_cast<uint64_t>(stride);
  }
  return hash;
}

/// Whether elements at the same place in memory belong together.
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
  // A lazy negation is a flag, not yet in the numbers.
  if (source.is_neg() || !same_order(source, slot.average)) return std::nullopt;
  kernels::Span span{slot.average.data_ptr(), source.data_ptr(), source.numel(), *average_type,
                     *source_type};
  if (slot.lost.defined()) {
    if (!same_order(slot.average, slot.lost)) return std::nullopt;
    span.residual = slot.lost.data_ptr<int16_t>();
  }
  return span;
}

}  // namespace

// ---- tables

namespace {

/// Chunks of several averages that have the same source.
class Group {
 public:
  void add(const kernels::Span& span, double weight) {
    const bool joins = count_ > 0 && count_ < kMost && span.source == spans_[0]->source &&
                       span.size == spans_[0]->size && span.source_type == spans_[0]->source_type;
    if (!joins) flush();
    spans_[count_] = &span;
    weights_[count_++] = weight;
  }
  void flush() {
    kernels::lerp_group(spans_, weights_, count_);
    count_ = 0;
  }

 private:
  static constexpr size_t kMost = 6;
  const kernels::Span* spans_[kMost];
  double weights_[kMost];
  size_t count_ = 0;
};

}  // namespace

ChunkTable::ChunkTable(const std::vector<kernels::Span>& spans)
    : chunks_(kernels::split_into_chunks(spans, kChunkElements)) {
  starts_.reserve(chunks_.size());
  for (const kernels::Span& chunk : chunks_) {
    starts_.push_back(bytes_);
    bytes_ += kernels::traffic_of(chunk) + kChunkOverhead;
  }
}

size_t ChunkTable::chunk_at(int64_t byte) const {
  return static_cast<size_t>(std::lower_bound(starts_.begin(), starts_.end(), byte) -
                             starts_.begin());
}

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

void Plan::Copies::copy_by_aten(const std::vector<Slot>& slots) const {
  for (const size_t i : by_aten) slots[i].average.copy_(slots[i].source);
}

// ---- plan

Plan::Plan(const std::vector<Slot>& slots, bool update_buffers, bool check_finite) {
  std::vector<kernels::Span> averaged;
  std::vector<kernels::Span> averaged_buffers;
  std::vector<kernels::Span> checked;
  for (size_t i = 0; i < slots.size(); ++i) {
    const Slot& slot = slots[i];
    const c10::TensorImpl* from = slot.source.unsafeGetTensorImpl();
    const c10::TensorImpl* to = slot.average.unsafeGetTensorImpl();
    seen_.push_back(
        {from, to, from->data(), to->unsafe_storage(), layout_of(*from), from->dtype()});
    on_gpu_ = on_gpu_ || DeviceTables::has_kernel(slot.source.device()) ||
              DeviceTables::has_kernel(slot.average.device());
    const bool is_number = is_averageable(slot.average);
    const bool averaged_slot = is_number && (!slot.buffer || update_buffers);
    const at::Tensor source = source_on_host(slot, averaged_slot);
    const auto span = is_number ? span_of(slot, source) : std::nullopt;
    if (check_finite && averaged_slot) {
      span&& slot.source.is_cpu() ? checked.push_back(*span) : checked_by_aten_.push_back(i);
    }
    const c10::Device device = slot.average.device();
    kernels::CudaRow* on_gpu =
        DeviceTables::has_kernel(device) ? &on_gpus_[device.index()] : nullptr;
    if (slot.buffer && !update_buffers) {
      buffers_.add(slot, source, i, on_gpu ? &on_gpu->copied : nullptr);
    } else if (!is_number) {
      integers_.add(slot, source, i, on_gpu ? &on_gpu->copied_with_it : nullptr);
    } else if (span && on_gpu) {
      on_gpu->averaged.push_back(*span);
    } else if (span) {
      // Buffers last, so that averages with and without them have the same chunks in front.
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
  // Of ten thousand small tensors this takes nearly as long as their update, in five cache lines
  // each that no processor foresees (asking for them ahead did not help): threads share it too.
  std::atomic<bool> current{true};
  const auto count = static_cast<int64_t>(seen_.size());
  at::parallel_for(0, count, kTensorsAThread, [&](int64_t begin, int64_t end) {
    const bool same = std::all_of(seen_.begin() + begin, seen_.begin() + end,
                                  [](const Seen& seen) { return seen.is_current(); });
    if (!same) current = false;
  });
  return current;
}

bool Plan::model_is_finite(const std::vector<Slot>& slots) const {
  std::atomic<bool> finite{true};
  checked_.share_out([&](size_t first, size_t last) {
    if (!kernels::all_finite(checked_.data() + first, last - first)) finite = false;
  });
  if (!finite || checked_by_aten_.empty()) return finite;
  std::vector<at::Tensor> sources;
  sources.reserve(checked_by_aten_.size());
  for (const size_t i : checked_by_aten_) sources.push_back(slots[i].source);
  return are_finite_by_aten(sources);
}

bool Plan::can_be_captured(bool always_averages) const {
  return !offload_ && averaged_.size() == 0 && by_aten_.empty() && integers_.plain.empty() &&
         buffers_.plain.empty() && (always_averages || integers_.by_aten.empty());
}

at::Tensor Plan::source_on_host(const Slot& slot, bool averaged) {
  const bool travels = slot.source.is_cuda() && slot.average.is_cpu() &&
                       (!averaged || kernel_type(slot.source.scalar_type())) &&
                       slot.source.is_non_overlapping_and_dense() && !slot.source.is_neg() &&
                       !slot.source.is_conj();
  if (!travels) return slot.source;
  if (!offload_) offload_ = std::make_unique<Offload>(slot.source.device());
  if (slot.source.device() != offload_->device()) return slot.source;  // a model over two devices
  return offload_->add(slot.source, slot.buffer);
}

void Plan::update(c10::ArrayRef<Share> shares) {
  c10::SmallVector<Share, 8> averaging;
  for (const Share& share : shares) {
    if (share.averages) averaging.push_back(share);
  }
  run_kernels(averaging);
  run_on_gpus(shares);
  for (const Share& share : averaging) share.plan->run_aten(*share.slots, share.weight);
  for (const Share& share : shares) {
    if (!share.copies) continue;
    share.plan->buffers_.copy_plain();
    share.plan->buffers_.copy_by_aten(*share.slots);
  }
}

void Plan::place_on_gpus(c10::ArrayRef<Share> shares) {
  std::shared_ptr<const DeviceTables> tables;
  size_t rows = 0;
  bool same = true;
  for (const Share& share : shares) {
    if (share.plan->on_gpus_.empty()) continue;
    const Place& place = share.plan->place_;
    if (rows == 0) tables = place.tables;
    same = same && place.tables && place.tables == tables && place.row == rows;
    ++rows;
  }
  if (rows == 0 || (same && tables->rows() == rows)) return;

  std::vector<const DeviceRows*> all;
  for (const Share& share : shares) {
    if (!share.plan->on_gpus_.empty()) all.push_back(&share.plan->on_gpus_);
  }
  tables = std::make_shared<const DeviceTables>(all);
  rows = 0;
  for (const Share& share : shares) {
    if (!share.plan->on_gpus_.empty()) share.plan->place_ = {tables, rows++};
  }
}

void Plan::run_on_gpus(c10::ArrayRef<Share> shares) {
  c10::SmallVector<kernels::CudaTurn, 8> turns;
  const DeviceTables* tables = nullptr;
  for (const Share& share : shares) {
    if (share.plan->on_gpus_.empty()) continue;
    tables = share.plan->place_.tables.get();
    turns.push_back({share.weight, share.averages, share.copies});
  }
  if (!tables) return;
  // A graph gets its turns at each replay.
  if (!DeviceTables::is_capturing()) tables->set_turns(0, turns);
  tables->update();
}

void Plan::run_kernels(c10::ArrayRef<Share> shares) {
  if (shares.empty()) return;
  // The chunks of averages over one model agree, but for those that one has and another has not.
  const Share* longest =
      std::max_element(shares.begin(), shares.end(), [](const Share& a, const Share& b) {
        return a.plan->averaged_.size() < b.plan->averaged_.size();
      });
  longest->plan->averaged_.share_out([&](size_t first, size_t last) {
    if (shares.size() == 1) {
      return kernels::lerp(longest->plan->averaged_.data() + first, last - first, longest->weight);
    }
    Group group;
    for (size_t i = first; i < last; ++i) {
      for (const Share& share : shares) {
        const ChunkTable& table = share.plan->averaged_;
        if (i < table.size()) group.add(table.data()[i], share.weight);
      }
      group.flush();
    }
  });
  for (const Share& share : shares) share.plan->integers_.copy_plain();
}

void Plan::run_aten(const std::vector<Slot>& slots, double weight) const {
  for (const size_t i : by_aten_) lerp_by_aten(slots[i], weight);
  integers_.copy_by_aten(slots);
}

}  // namespace polyak
