// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/average_memory.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <vector>

#include "polyak/kernels/span.h"

namespace polyak {
namespace {

constexpr int64_t kLine = 64;  // of the caches, and the best alignment for vectors

/// Uninitialized bytes. If they fill a huge page, asks Linux for huge pages.
at::Tensor room_in_huge_pages(int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr int64_t kHugePage = 2 << 20;
  if (bytes >= kHugePage) {
    const at::Tensor room = at::empty({bytes + kHugePage}, at::kByte);
    const auto start = reinterpret_cast<uintptr_t>(room.data_ptr());
    const auto skipped = static_cast<int64_t>((kHugePage - start % kHugePage) % kHugePage);
    at::Tensor aligned = room.narrow(0, skipped, bytes);
    // Only advice: if it is ignored, the memory has ordinary pages.
    ::madvise(aligned.data_ptr(), static_cast<size_t>(bytes), MADV_HUGEPAGE);
    return aligned;
  }
#endif
  return at::empty({bytes}, at::kByte);
}

/// The number of bytes to skip at this offset of a page, so that a large average crosses page
/// boundaries together with its source. Without it, updates took 1 to 3 % longer on an EPYC.
int64_t gap_before(const Slot& slot, int64_t offset) {
  constexpr int64_t kLarge = 16 * kernels::kPage;
  const at::Tensor& source = slot.source;
  if (!source.is_cpu() || !source.has_storage()) return 0;
  if (static_cast<int64_t>(slot.average.nbytes()) < kLarge) return 0;
  const auto source_offset =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(source.data_ptr()) % kernels::kPage);
  const int64_t wanted = source_offset / source.element_size() * slot.average.element_size();
  const int64_t gap = (wanted - offset) % kernels::kPage;
  return (gap < 0 ? gap + kernels::kPage : gap) / kLine * kLine;
}

bool can_move(const Slot& slot) {
  const at::Tensor& tensor = slot.average;
  return !slot.shared && tensor.is_cpu() && tensor.numel() > 0 &&
         tensor.is_non_overlapping_and_dense();
}

int64_t room_for(const at::Tensor& tensor) {
  return (static_cast<int64_t>(tensor.nbytes()) + kLine - 1) / kLine * kLine;
}

}  // namespace

void gather_averages(const Slots& slots) {
  std::vector<int64_t> places;
  places.reserve(slots.size());
  int64_t bytes = 0;
  for (const Slot& slot : slots) {
    if (can_move(slot)) bytes += gap_before(slot, bytes);
    places.push_back(bytes);
    if (can_move(slot)) bytes += room_for(slot.average);
  }
  const at::Tensor memory = room_in_huge_pages(bytes);
  for (size_t i = 0; i < slots.size(); ++i) {
    const Slot& slot = slots[i];
    const at::Tensor& average = slot.average;
    if (!can_move(slot)) continue;
    const at::Tensor there = at::from_blob(
        static_cast<char*>(memory.data_ptr()) + places[i], average.sizes(), average.strides(),
        [memory](void*) { /* held for as long as it is used */ }, average.options());
    there.copy_(average);
    average.set_data(there);
    if (slot.is_apart()) continue;
    for (const at::Tensor& alias : slot.aliases) alias.set_data(there);
  }
}

}  // namespace polyak
