// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/module_archive.h"

#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/averaging/slot.h"
#include "polyak/core/error.h"

namespace polyak {
namespace {

/// A tensor of an archive by its dotted name, as stored.
at::Tensor read_tensor(torch::serialize::InputArchive& archive, const std::string& name) {
  const size_t dot = name.find('.');
  if (dot == std::string::npos) {
    at::Tensor tensor;
    archive.read(name, tensor);
    return tensor;
  }
  torch::serialize::InputArchive child;
  archive.read(name.substr(0, dot), child);
  return read_tensor(child, name.substr(dot + 1));
}

}  // namespace

void load_module(torch::serialize::InputArchive& archive, torch::nn::Module& module) {
  const std::vector<NamedTensor> mine = ModelRef(module).tensors();
  std::vector<at::Tensor> read;
  for (const NamedTensor& item : mine) {
    read.push_back(read_tensor(archive, item.name));
    const bool any_kind = item.buffer || !is_averageable(item.tensor);
    if (read.back().sizes() == item.tensor.sizes() &&
        (any_kind || same_kind(read.back(), item.tensor))) {
      continue;
    }
    fail<Error>("load: {}: is {} [{}] in the archive, but {} [{}] here; nothing was loaded",
                item.name, at::toString(read.back().scalar_type()),
                fmt::join(read.back().sizes(), ", "), at::toString(item.tensor.scalar_type()),
                fmt::join(item.tensor.sizes(), ", "));
  }
  for (size_t i = 0; i < mine.size(); ++i) mine[i].tensor.copy_(read[i]);
}

}  // namespace polyak
