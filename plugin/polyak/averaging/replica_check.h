// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "polyak/averaging/process_group.h"

namespace polyak {

/// Something that must be the same in all processes, and a number that follows from it.
struct Fingerprint {
  std::string name;
  uint64_t digest;
};

/// A number that follows from the tensor's bytes. Reads it once; waits for a GPU.
uint64_t digest_of(const at::Tensor& tensor);
uint64_t digest_of(const std::string& text);

/// Compares them over all processes. @return "rank 1 has another NAME than rank 0" for the first
/// that differs, or ""
std::string find_difference(ProcessGroup& processes, const std::vector<Fingerprint>& mine);

}  // namespace polyak
