// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/average_coverage.h"

#include <fmt/format.h>

#include "polyak/core/text.h"

namespace polyak {
namespace {

void add_to(AverageCoverage::Sum& sum, const AverageCoverage::Tensor& tensor) {
  ++sum.tensors;
  sum.numbers += tensor.numbers;
  sum.bytes += tensor.bytes;
  sum.bytes_of_model += tensor.bytes_of_model;
}

std::string text_of_mode(TensorMode mode) {
  switch (mode) {
    case TensorMode::copy:
      return "copied at every update";
    case TensorMode::share:
      return "shared with the model";
    case TensorMode::keep:
      return "kept as at the first update";
    default:
      return "averaged";
  }
}

}  // namespace

AverageCoverage::Sum AverageCoverage::sum(TensorMode mode) const {
  Sum sum;
  for (const Tensor& tensor : tensors) {
    if (tensor.mode == mode) add_to(sum, tensor);
  }
  return sum;
}

AverageCoverage::Sum AverageCoverage::sum() const {
  Sum sum;
  for (const Tensor& tensor : tensors) add_to(sum, tensor);
  return sum;
}

std::vector<std::string> AverageCoverage::lines() const {
  std::vector<std::string> lines;
  for (const TensorMode mode :
       {TensorMode::average, TensorMode::copy, TensorMode::share, TensorMode::keep}) {
    const Sum all = sum(mode);
    if (all.tensors == 0) continue;
    std::vector<std::string> names;
    for (const Tensor& tensor : tensors) {
      if (tensor.mode == mode) names.push_back(tensor.name);
    }
    constexpr size_t kShown = 4;
    lines.push_back(fmt::format("{}: {} tensors, {} numbers, {} in the average: {}",
                                text_of_mode(mode), all.tensors, all.numbers, size_text(all.bytes),
                                list_names(names, kShown)));
  }
  return lines;
}

}  // namespace polyak
