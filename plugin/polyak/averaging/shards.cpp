// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/shards.h"

#include <ATen/Functions.h>

#include <algorithm>

namespace polyak {
namespace {

constexpr int64_t kMostBytes = int64_t{25} << 20;
constexpr int64_t kAligned = 16;  // elements: no cache line belongs to two processes
constexpr const char* kGathering = "gathering an average";

/// Sends pieces of process `root` to all others, several in one message.
class Sender {
 public:
  Sender(ProcessGroup& processes, int64_t root) : processes_(processes), root_(root) {}

  /// @param piece contiguous; where it goes to, and in `root` where it is
  void add(const at::Tensor& piece) {
    for (int64_t begin = 0; begin < piece.numel();) {
      if (!pieces_.empty() && pieces_[0].scalar_type() != piece.scalar_type()) send();
      const int64_t room = std::max<int64_t>((kMostBytes - bytes_) / piece.element_size(), 1);
      const int64_t size = std::min(room, piece.numel() - begin);
      pieces_.push_back(piece.narrow(0, begin, size));
      bytes_ += size * piece.element_size();
      begin += size;
      if (bytes_ >= kMostBytes) send();
    }
  }
  void send() {
    if (pieces_.empty()) return;
    if (pieces_.size() == 1) {
      processes_.broadcast(pieces_[0], root_, kGathering);
    } else {
      const at::Tensor all = at::cat(pieces_);
      processes_.broadcast(all, root_, kGathering);
      int64_t begin = 0;
      for (const at::Tensor& piece : pieces_) {
        if (processes_.rank() != root_) piece.copy_(all.narrow(0, begin, piece.numel()));
        begin += piece.numel();
      }
    }
    pieces_.clear();
    bytes_ = 0;
  }

 private:
  ProcessGroup& processes_;
  int64_t root_;
  std::vector<at::Tensor> pieces_;
  int64_t bytes_ = 0;
};

}  // namespace

ShardLayout::ShardLayout(const std::vector<Item>& items, int64_t processes)
    : processes_(processes) {
  int64_t bytes = 0;
  for (const Item& item : items) bytes += item.elements * item.bytes_of_one;
  int64_t before = 0;
  for (const Item& item : items) {
    std::vector<int64_t> cuts;
    for (int64_t rank = 0; rank < processes; ++rank) {
      const int64_t cut = bytes / processes * rank - before;
      const int64_t element =
          cut <= 0 ? 0 : (cut / item.bytes_of_one + kAligned - 1) / kAligned * kAligned;
      cuts.push_back(std::min(element, item.elements));
    }
    cuts.push_back(item.elements);
    cuts_.push_back(std::move(cuts));
    before += item.elements * item.bytes_of_one;
  }
}

void gather_parts(ProcessGroup& processes, const ShardLayout& layout,
                  const std::vector<at::Tensor>& parts, const std::vector<at::Tensor>& wholes) {
  const auto piece = [&](size_t item, int64_t rank) {
    const ShardLayout::Part part = layout.part(item, rank);
    return wholes[item].narrow(0, part.begin, part.size());
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].defined()) piece(i, processes.rank()).copy_(parts[i]);
  }
  for (int64_t rank = 0; rank < processes.size(); ++rank) {
    Sender sender(processes, rank);
    for (size_t i = 0; i < wholes.size(); ++i) {
      if (wholes[i].defined()) sender.add(piece(i, rank));
    }
    sender.send();
  }
}

}  // namespace polyak
