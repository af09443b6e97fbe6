// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/optimizers.h"

#include <c10/util/Type.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <numeric>
#include <typeinfo>

namespace polyak {

std::vector<WeakTensor> parameters_of(const torch::optim::Optimizer& optimizer) {
  std::vector<WeakTensor> parameters;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (parameter.defined()) parameters.emplace_back(parameter.getIntrusivePtr());
    }
  }
  return parameters;
}

std::vector<size_t> group_sizes_of(const torch::optim::Optimizer& optimizer) {
  std::vector<size_t> sizes;
  for (const auto& group : optimizer.param_groups()) {
    sizes.push_back(static_cast<size_t>(
        std::count_if(group.params().begin(), group.params().end(),
                      [](const at::Tensor& parameter) { return parameter.defined(); })));
  }
  return sizes;
}

std::vector<WeakTensor> in_same_places(const std::vector<WeakTensor>& parameters,
                                       const std::vector<size_t>& sizes,
                                       const std::vector<size_t>& other_sizes) {
  std::vector<WeakTensor> result;
  size_t begin = 0;
  for (size_t group = 0; group < other_sizes.size(); ++group) {
    const size_t size = group < sizes.size() ? sizes[group] : 0;
    for (size_t i = 0; i < other_sizes[group]; ++i) {
      if (i < size) {
        result.push_back(parameters[begin + i]);
      } else {
        result.emplace_back(c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>());
      }
    }
    begin += size;
  }
  return result;
}

bool has_parameters(const torch::optim::Optimizer& optimizer,
                    const std::vector<WeakTensor>& known) {
  size_t i = 0;
  for (const auto& group : optimizer.param_groups()) {
    for (const at::Tensor& parameter : group.params()) {
      if (!parameter.defined()) continue;
      if (i == known.size() || known[i]._unsafe_get_target() != parameter.unsafeGetTensorImpl()) {
        return false;
      }
      ++i;
    }
  }
  return i == known.size();
}

std::vector<at::Tensor> alive(const std::vector<WeakTensor>& tensors) {
  std::vector<at::Tensor> result;
  for (const WeakTensor& tensor : tensors) {
    if (auto strong = tensor.lock()) result.emplace_back(std::move(strong));
  }
  return result;
}

int64_t sum_of_versions(const std::vector<at::Tensor>& tensors) {
  return std::accumulate(tensors.begin(), tensors.end(), int64_t{0},
                         [](int64_t sum, const at::Tensor& tensor) {
                           return sum + (tensor.is_inference() ? 0 : tensor._version());
                         });
}

bool is_libtorchs(const torch::optim::Optimizer& optimizer) {
  using namespace torch::optim;
  const std::type_info& type = typeid(optimizer);
  return type == typeid(SGD) || type == typeid(Adam) || type == typeid(AdamW) ||
         type == typeid(RMSprop) || type == typeid(Adagrad) || type == typeid(LBFGS);
}

bool begins_with(const torch::optim::Optimizer& optimizer, const std::vector<WeakTensor>& known) {
  const std::vector<WeakTensor> now = parameters_of(optimizer);
  return now.size() >= known.size() &&
         std::equal(known.begin(), known.end(), now.begin(),
                    [](const WeakTensor& a, const WeakTensor& b) {
                      return a._unsafe_get_target() == b._unsafe_get_target();
                    });
}

std::string class_of(const torch::optim::Optimizer& optimizer) {
  std::string name = c10::demangle(typeid(optimizer).name());
  const std::string ours = "torch::optim::";
  return name.rfind(ours, 0) == 0 ? name.substr(ours.size()) : name;
}

}  // namespace polyak
