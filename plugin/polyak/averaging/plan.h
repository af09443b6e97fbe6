// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/TensorImpl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "polyak/averaging/chunk_table.h"
#include "polyak/averaging/device_tables.h"
#include "polyak/averaging/offload.h"
#include "polyak/averaging/slot.h"

namespace polyak {

/// How the slots of one average are updated: which tensors a kernel handles, as chunks that threads
/// share by bytes, and which ones LibTorch handles. Made once; its use does not allocate or look up
/// names. It shares the slots and keeps raw pointers into their tensors: call is_current() before
/// each use, and make a new plan when a slot gets another tensor.
///
/// JointUpdate runs updates with plans.
class Plan {
 public:
  /// @param check_buffers whether the check includes buffers
  Plan(std::shared_ptr<const Slots> slots, bool check_finite, bool check_buffers = true);

  /// Whether every tensor still has the storage, size and dtype that the plan was made for.
  bool is_current() const;
  /// Whether all averaged numbers of the model are finite; only for a plan that was made to check.
  bool model_is_finite() const;

  /// What our kernels average on the CPU.
  const ChunkTable& chunks() const { return averaged_; }
  /// What they average and copy on GPUs.
  const DeviceRows& device_rows() const { return on_gpus_; }
  /// What LibTorch's operations average, and the integers that an averaging update copies.
  void run_aten(double weight) const;
  /// The integers that an averaging update copies and that are plain bytes on the CPU.
  void copy_plain_integers() const { integers_.copy_plain(); }
  /// The buffers that are not averaged: those that are plain bytes on the CPU, and the others.
  void copy_plain_buffers() const { buffers_.copy_plain(); }
  void copy_other_buffers() const { buffers_.copy_by_aten(*slots_); }

  /// Where the last update did its work on GPUs; no tables if it did none there.
  struct Place {
    std::shared_ptr<const DeviceTables> tables;
    size_t row = 0;
  };
  const Place& place() const { return place_; }
  void set_place(Place place) { place_ = std::move(place); }
  /// Whether an update now would be captured into a CUDA graph. Asks CUDA only if the model or the
  /// average is on a GPU with our kernel: asking would initialise a GPU that nobody uses.
  bool is_captured_now() const { return on_gpu_ && DeviceTables::is_capturing(); }
  /// Whether replaying a CUDA graph of an update does the same as the update, if every update
  /// averages, or not every one: our kernels must then do all that depends on the weight.
  bool can_be_captured(bool always_averages) const;

  /// If the model is on another device than a CPU average: copies its weights to the host. The
  /// chunks, plain integers and plain buffers are valid after Offload::wait().
  Offload* offload() const { return offload_.get(); }

 private:
  /// What a slot's pointers were taken from. For the average, which is ours, the storage is enough;
  /// it is held so that its address is not reused.
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
    void copy_by_aten(const Slots& slots) const;
  };

  /// The slot's source, or where its values arrive on the host.
  at::Tensor source_on_host(const Slot& slot, bool averaged);

  std::shared_ptr<const Slots> slots_;
  std::unique_ptr<Offload> offload_;
  std::vector<Seen> seen_;
  ChunkTable averaged_;
  DeviceRows on_gpus_;
  Place place_;
  bool on_gpu_ = false;
  std::vector<size_t> by_aten_;
  Copies integers_;
  Copies buffers_;
  ChunkTable checked_;
  std::vector<size_t> checked_by_aten_;
};

}  // namespace polyak
