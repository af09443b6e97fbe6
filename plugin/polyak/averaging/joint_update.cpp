// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/joint_update.h"

#include <algorithm>
#include <memory>
#include <vector>

namespace polyak {
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

void JointUpdate::run() const {
  run_kernels();
  run_on_gpus();
  for (const Share& share : shares_) {
    if (share.averages) share.plan->run_aten(share.weight);
  }
  for (const Share& share : shares_) {
    if (!share.copies) continue;
    share.plan->copy_plain_buffers();
    share.plan->copy_other_buffers();
  }
}

void JointUpdate::place_on_gpus() const {
  std::shared_ptr<const DeviceTables> tables;
  size_t rows = 0;
  bool same = true;
  for (const Share& share : shares_) {
    if (share.plan->device_rows().empty()) continue;
    const Plan::Place& place = share.plan->place();
    if (rows == 0) tables = place.tables;
    same = same && place.tables && place.tables == tables && place.row == rows;
    ++rows;
  }
  if (rows == 0 || (same && tables->rows() == rows)) return;

  std::vector<const DeviceRows*> all;
  for (const Share& share : shares_) {
    if (!share.plan->device_rows().empty()) all.push_back(&share.plan->device_rows());
  }
  tables = std::make_shared<const DeviceTables>(all);
  rows = 0;
  for (const Share& share : shares_) {
    if (!share.plan->device_rows().empty()) share.plan->set_place({tables, rows++});
  }
}

void JointUpdate::run_on_gpus() const {
  c10::SmallVector<kernels::CudaTurn, 8> turns;
  const DeviceTables* tables = nullptr;
  for (const Share& share : shares_) {
    if (share.plan->device_rows().empty()) continue;
    tables = share.plan->place().tables.get();
    turns.push_back({share.weight, share.averages, share.copies});
  }
  if (!tables) return;
  // A graph gets its turns at each replay.
  if (!DeviceTables::is_capturing()) tables->set_turns(0, turns);
  tables->update();
}

void JointUpdate::run_kernels() const {
  struct Work {
    const ChunkTable* chunks;
    double weight;
  };
  c10::SmallVector<Work, 8> all;
  for (const Share& share : shares_) {
    if (share.averages) all.push_back({&share.plan->chunks(), share.weight});
  }
  if (all.empty()) return;
  // Averages over one model have the same chunks, except at the end, where some have more.
  const Work* longest = std::max_element(all.begin(), all.end(), [](const Work& a, const Work& b) {
    return a.chunks->size() < b.chunks->size();
  });
  longest->chunks->share_out([&](size_t first, size_t last) {
    if (all.size() == 1) {
      return kernels::lerp(longest->chunks->data() + first, last - first, longest->weight);
    }
    Group group;
    for (size_t i = first; i < last; ++i) {
      for (const Work& work : all) {
        if (i < work.chunks->size()) group.add(work.chunks->data()[i], work.weight);
      }
      group.flush();
    }
  });
  for (const Share& share : shares_) {
    if (share.averages) share.plan->copy_plain_integers();
  }
}

}  // namespace polyak
