// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/tiny_net.h"

namespace polyak::test {

/// A trace of the reference, read from tests/golden.
nlohmann::json golden(const std::string& file);

/// The tensors of a state that golden files write as one flat list, in the order of its keys.
class FlatState {
 public:
  FlatState() : model_(golden("model.json")) {}
  const nlohmann::json& model() const { return model_; }
  std::vector<std::string> keys() const {
    return model_["state_keys"].get<std::vector<std::string>>();
  }

  /// Writes a flat list into a model's parameters and buffers.
  void load(TinyNet& net, const std::vector<double>& flat) const;
  /// A model of the dtype with these values.
  TinyNet make(const std::vector<double>& flat, at::ScalarType dtype) const;
  /// The source after change t.
  std::vector<double> source(const std::string& dtype, int t) const {
    return model_["source_" + dtype][t].get<std::vector<double>>();
  }
  std::vector<double> initial(const std::string& dtype) const {
    return model_["initial_" + dtype].get<std::vector<double>>();
  }

 private:
  nlohmann::json model_;
};

/// Values of named tensors (parameters and buffers) in the order of the golden files' keys.
template <class Named>
std::vector<double> flatten_by(const Named& named, const std::vector<std::string>& keys) {
  std::vector<double> flat;
  for (const std::string& key : keys) {
    const at::Tensor value = named(key).detach().to(at::kDouble).contiguous().view({-1});
    for (int64_t i = 0; i < value.numel(); ++i) flat.push_back(value[i].template item<double>());
  }
  return flat;
}

std::vector<double> flatten(torch::nn::Module& module, const std::vector<std::string>& keys);

/// The largest difference; the positions in `leave_out` do not count.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b,
                          const std::vector<size_t>& leave_out = {});

/// Where bn.num_batches_tracked stands: frozen in the traces with update_buffers, copied by us.
constexpr size_t kBatchesTracked = 18;

}  // namespace polyak::test
