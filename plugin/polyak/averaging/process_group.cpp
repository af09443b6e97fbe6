// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/process_group.h"

#include <ATen/Functions.h>

namespace polyak {

ProcessGroupError::~ProcessGroupError() = default;
ProcessGroup::~ProcessGroup() = default;

void ProcessGroup::all_reduce(const at::Tensor& tensor, const char* what) {
  if (size() == 1) return;
  bytes_ += static_cast<int64_t>(tensor.nbytes());
  do_all_reduce(tensor, what);
}

void ProcessGroup::broadcast(const at::Tensor& tensor, int64_t root, const char* what) {
  if (size() == 1 || tensor.numel() == 0) return;
  bytes_ += static_cast<int64_t>(tensor.nbytes());
  do_broadcast(tensor, root, what);
}

std::vector<at::Tensor> ProcessGroup::all_gather(const at::Tensor& tensor, const char* what) {
  if (size() == 1 || tensor.numel() == 0)
    return std::vector<at::Tensor>(static_cast<size_t>(size()), tensor);
  bytes_ += static_cast<int64_t>(tensor.nbytes());
  std::vector<at::Tensor> all;
  for (int64_t i = 0; i < size(); ++i) all.push_back(at::empty_like(tensor));
  do_all_gather(all, tensor, what);
  return all;
}

void ProcessGroup::barrier(const char* what) {
  all_reduce(at::zeros({1}), what);
}

}  // namespace polyak
