#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <vector>

#include "polyak/averaging/slot.h"
#include "polyak/kernels/lerp.h"

namespace polyak {

/// How the slots of one average are updated: which tensors a kernel takes, as chunks that threads
/// share by their bytes, and which are LibTorch's. Made once; using it allocates nothing and looks
/// no name up. It holds raw pointers: ask is_current() before each use.
class Plan {
 public:
  Plan(const std::vector<Slot>& slots, bool update_buffers, bool check_finite);

  /// Whether every tensor still has the storage, size and dtype that the plan was made for.
  bool is_current() const;
  /// Whether no floating number of the model is NaN or infinite; only of a plan that was made to
  /// check.
  bool model_is_finite(const std::vector<Slot>& slots) const;
  /// Copies the buffers that are not averaged.
  void copy_buffers(const std::vector<Slot>& slots) const;

  /// One of several averages over the same model.
  struct Share {
    const Plan* plan;
    const std::vector<Slot>* slots;
    double weight;
  };
  /// Averages, and copies the integers that go with it: chunk by chunk for all, so that the model's
  /// weights are read from memory once.
  static void average(c10::ArrayRef<Share> shares);

 private:
  struct Seen {
    const c10::TensorImpl* source;
    const c10::TensorImpl* average;
    const void* source_data;
    const void* average_data;
    int64_t size;
    at::ScalarType source_type;
    at::ScalarType average_type;
  };
  /// Chunks, and for each the bytes that go before it: by these threads share them.
  struct Table {
    std::vector<kernels::Span> chunks;
    std::vector<int64_t> starts;
    int64_t bytes = 0;

    void cut(const std::vector<kernels::Span>& spans);
    /// Calls work(first, last) with ranges of chunks from several threads, each about as many
    /// bytes.
    template <class Work>
    void share_out(const Work& work) const;
  };
  struct Copies {
    struct Bytes {
      void* to;
      const void* from;
      size_t size;
    };
    std::vector<Bytes> plain;
    std::vector<size_t> by_aten;

    void add(const std::vector<Slot>& slots, size_t i);
    void run(const std::vector<Slot>& slots) const;
  };

  std::vector<Seen> seen_;
  Table averaged_;
  std::vector<size_t> by_aten_;
  Copies integers_;
  Copies buffers_;
  Table checked_;
  std::vector<size_t> checked_by_aten_;
};

}  // namespace polyak
