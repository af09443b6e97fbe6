// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/replica_check.h"

#include <ATen/Functions.h>
#include <fmt/format.h>

#include <cstring>

namespace polyak {
namespace {

constexpr const char* kComparing = "comparing the processes";

/// FNV-1a's step over eight bytes at a time, with a shift so that high bits reach low ones.
uint64_t digest_of(const void* data, size_t size) {
  uint64_t digest = 0xcbf29ce484222325ULL;
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (; size >= sizeof(uint64_t); size -= sizeof(uint64_t), bytes += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes, sizeof(word));
    digest = (digest ^ word) * 0x100000001b3ULL;
    digest ^= digest >> 29;
  }
  for (; size > 0; --size, ++bytes) digest = (digest ^ *bytes) * 0x100000001b3ULL;
  return digest;
}

}  // namespace

uint64_t digest_of(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().cpu().contiguous();
  return digest_of(plain.data_ptr(), plain.nbytes());
}

uint64_t digest_of(const std::string& text) {
  return digest_of(text.data(), text.size());
}

std::string find_difference(ProcessGroup& processes, const std::vector<Fingerprint>& mine) {
  const at::Tensor digests = at::empty({static_cast<int64_t>(mine.size())}, at::kLong);
  for (size_t i = 0; i < mine.size(); ++i) {
    digests.data_ptr<int64_t>()[i] = static_cast<int64_t>(mine[i].digest);
  }
  const at::Tensor one = at::full(
      {1}, static_cast<int64_t>(digest_of(digests.data_ptr(), digests.nbytes())), at::kLong);
  const std::vector<at::Tensor> all = processes.all_gather(one, kComparing);
  size_t other = 0;
  while (other < all.size() && at::equal(all[other], all[0])) ++other;
  if (other == all.size()) return {};
  const at::Tensor count = at::full({1}, digests.numel(), at::kLong);
  const std::vector<at::Tensor> counts = processes.all_gather(count, kComparing);
  for (size_t rank = 1; rank < counts.size(); ++rank) {
    if (at::equal(counts[rank], counts[0])) continue;
    return fmt::format("rank {} has another number of tensors than rank 0", rank);
  }
  const std::vector<at::Tensor> each = processes.all_gather(digests, kComparing);
  for (size_t i = 0; i < mine.size(); ++i) {
    const auto digest = [&](size_t rank) { return each[rank].data_ptr<int64_t>()[i]; };
    for (size_t rank = 1; rank < each.size(); ++rank) {
      if (digest(rank) == digest(0)) continue;
      return fmt::format("rank {} has another {} than rank 0", rank, mine[i].name);
    }
  }
  return {};
}

}  // namespace polyak
