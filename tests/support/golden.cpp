// SPDX-License-Identifier: Apache-2.0
#include "support/golden.h"

#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <stdexcept>

#include "polyak/averaging/model.h"

namespace polyak::test {

nlohmann::json golden(const std::string& file) {
  const std::string path = std::string(POLYAK_GOLDEN_DIR) + "/" + file;
  std::ifstream in(path);
  if (!in) throw std::runtime_error("no golden file " + path);
  return nlohmann::json::parse(in);
}

void FlatState::load(TinyNet& net, const std::vector<double>& flat) const {
  torch::NoGradGuard no_grad;
  size_t at = 0;
  std::map<std::string, at::Tensor> tensors;
  for (const NamedTensor& item : ModelRef(net).tensors()) tensors[item.name] = item.tensor;
  for (const std::string& key : keys()) {
    at::Tensor& tensor = tensors.at(key);
    const auto size = static_cast<size_t>(tensor.numel());
    const std::vector<double> values(flat.begin() + at, flat.begin() + at + size);
    tensor.copy_(at::tensor(values, at::kDouble).view(tensor.sizes()));
    at += size;
  }
  if (at != flat.size()) throw std::runtime_error("a flat state of another size");
}

TinyNet FlatState::make(const std::vector<double>& flat, at::ScalarType dtype) const {
  TinyNet net;
  net->to(dtype);
  net->bn->num_batches_tracked.set_data(net->bn->num_batches_tracked.to(at::kLong));
  load(net, flat);
  return net;
}

std::vector<double> flatten(torch::nn::Module& module, const std::vector<std::string>& keys) {
  std::map<std::string, at::Tensor> tensors;
  for (const NamedTensor& item : ModelRef(module).tensors()) tensors[item.name] = item.tensor;
  return flatten_by([&](const std::string& key) { return tensors.at(key); }, keys);
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b,
                          const std::vector<size_t>& leave_out) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::find(leave_out.begin(), leave_out.end(), i) != leave_out.end()) continue;
    const double difference = std::abs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;  // NaN counts as different
  }
  return largest;
}

}  // namespace polyak::test
