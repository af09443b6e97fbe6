// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/Parallel.h>
#include <c10/core/TensorImpl.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "polyak/averaging/device_tables.h"
#include "polyak/averaging/offload.h"
#include "polyak/averaging/slot.h"
#include "polyak/core/export.h"
#include "polyak/kernels/lerp.h"

namespace polyak {

/// Chunks of spans that threads share by their bytes, so that one huge tensor and ten thousand
/// small ones both keep every thread at work.
class POLYAK_API ChunkTable {
 public:
  ChunkTable() = default;
  explicit ChunkTable(const std::vector<kernels::Span>& spans);

  size_t size() const { return chunks_.size(); }
  const kernels::Span* data() const { return chunks_.data(); }

  /// Calls work(first, last) for ranges of chunks that cover all, from LibTorch's threads.
  template <class Work>
  void share_out(const Work& work) const {
    at::parallel_for(0, bytes_, kBytesAThread, [&](int64_t begin, int64_t end) {
      const size_t first = chunk_at(begin), last = chunk_at(end);
      if (first < last) work(first, last);
    });
  }

 private:
  // Below this a second thread costs more than it brings.
  static constexpr int64_t kBytesAThread = 256 << 10;
  /// The first chunk that starts at this byte or behind: it belongs to the thread whose range
  /// starts there.
  size_t chunk_at(int64_t byte) const;

  std::vector<kernels::Span> chunks_;
  std::vector<int64_t> starts_;  // the bytes that go before each chunk
  int64_t bytes_ = 0;
};

/// How the slots of one average are updated: which tensors a kernel takes, as chunks that threads
/// share by their bytes, and which are LibTorch's. Made once; using it allocates nothing and looks
/// no name up. It holds raw pointers: ask is_current() before each use.
class Plan {
 public:
  Plan(const std::vector<Slot>& slots, bool update_buffers, bool check_finite);

  /// Whether every tensor still has the storage, size and dtype that the plan was made for.
  bool is_current() const;
  /// Whether no number that is averaged is NaN or infinite in the model; only of a plan that was
  /// made to check.
  bool model_is_finite(const std::vector<Slot>& slots) const;

  /// The part of one of several averages over the same model in an update.
  struct Share {
    const Plan* plan;
    const std::vector<Slot>* slots;
    double weight;
    bool averages;  // and copies the integers that go with it
    bool copies;    // the buffers that are not averaged
  };
  /// Does what the shares say: chunk by chunk for all on the CPU, and in one launch on a GPU, so
  /// that the model's weights are read from memory once.
  static void update(c10::ArrayRef<Share> shares);

  /// Makes tables on GPUs for these averages together, unless the last ones were for the same.
  /// @throws Error where a GPU lacks the memory, or this build code for it
  static void place_on_gpus(c10::ArrayRef<Share> shares);
  /// The part of update() that our kernels do on GPUs, after place_on_gpus.
  static void run_on_gpus(c10::ArrayRef<Share> shares);
  /// Where the last update had its work on GPUs; no tables where it had none there.
  struct Place {
    std::shared_ptr<const DeviceTables> tables;
    size_t row = 0;
  };
  const Place& place() const { return place_; }
  /// Whether an update now would be recorded into a CUDA graph. Asks CUDA only where model or
  /// average is on a GPU with our kernel: to ask would open one that nobody uses.
  bool is_captured_now() const { return on_gpu_ && DeviceTables::is_capturing(); }
  /// Whether a CUDA graph of an update would do what an update does, if each of them averages, or
  /// not: for that our kernels must do all that depends on the weight.
  bool can_be_captured(bool always_averages) const;

  /// Where the model is on another device than a CPU average: brings its weights to the host. With
  /// one, an update is these steps instead of update(): copy(), wait(), then what run_kernels() and
  /// copy_arrived_buffers() do in any thread, and the rest in the caller's.
  Offload* offload() const { return offload_.get(); }
  static void run_kernels(c10::ArrayRef<Share> shares);
  void run_aten(const std::vector<Slot>& slots, double weight) const;
  void copy_arrived_buffers() const { buffers_.copy_plain(); }
  void copy_other_buffers(const std::vector<Slot>& slots) const { buffers_.copy_by_aten(slots); }

 private:
  /// What a slot's pointers were taken from. Of the average, which is ours, the storage says all;
  /// it is held, so that no other can come to its address.
  struct Seen {
    const c10::TensorImpl* source;
    const c10::TensorImpl* average;
    const void* source_data;
    c10::Storage average_storage;
    uint64_t layout;  // of elements within the data
    caffe2::TypeMeta source_type;

    bool is_current() const;
  };
  struct Copies {
    struct Bytes {
      void* to;
      const void* from;
      size_t size;
    };
    std::vector<Bytes> plain;
    std::vector<size_t> by_aten;

    void add(const Slot& slot, const at::Tensor& source, size_t i,
             std::vector<kernels::CudaCopy>* on_gpu);
    void copy_plain() const;
    void copy_by_aten(const std::vector<Slot>& slots) const;
  };

  /// The slot's source, or where its values arrive on the host.
  at::Tensor source_on_host(const Slot& slot, bool averaged);

  std::unique_ptr<Offload> offload_;
  std::vector<Seen> seen_;
  ChunkTable averaged_;
  DeviceRows on_gpus_;
  mutable Place place_;
  bool on_gpu_ = false;
  std::vector<size_t> by_aten_;
  Copies integers_;
  Copies buffers_;
  ChunkTable checked_;
  std::vector<size_t> checked_by_aten_;
};

}  // namespace polyak
