// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/model.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>

#include <unordered_set>

#include "polyak/averaging/refreshable.h"
#include "polyak/core/error.h"

namespace polyak {
namespace {

void collect(const torch::nn::Module& module, const std::string& prefix,
             std::vector<NamedTensor>& out) {
  if (const auto* kept = dynamic_cast<const Refreshable*>(&module)) kept->refresh_module();
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    out.push_back({prefix + item.key(), item.value(), false});
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    out.push_back({prefix + item.key(), item.value(), true});
  }
  for (const auto& child : module.named_children()) {
    collect(*child.value(), prefix + child.key() + ".", out);
  }
}

void collect(const torch::jit::Module& module, const std::string& prefix,
             std::vector<NamedTensor>& out) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    out.push_back({prefix + item.name, item.value, false});
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    out.push_back({prefix + item.name, item.value, true});
  }
  for (const auto& child : module.named_children()) {
    collect(child.value, prefix + child.name + ".", out);
  }
}

}  // namespace

ModelRef::ModelRef(torch::nn::Module& module) : module_(&module) {}

ModelRef::ModelRef(std::shared_ptr<torch::nn::Module> module)
    : owner_(std::move(module)), module_(owner_.get()) {
  if (!module_) fail<Error>("the model is a null pointer; build it before averaging it");
}

ModelRef::ModelRef(const torch::jit::Module& module)
    : script_(std::make_shared<torch::jit::Module>(module)) {}

ModelRef::ModelRef(std::vector<NamedTensor> tensors) {
  std::unordered_set<std::string> names;
  for (const NamedTensor& item : tensors) {
    if (item.name.empty()) fail<Error>("a tensor of the list has no name; give it one");
    if (!names.insert(item.name).second) {
      fail<Error>("{}: is in the list of tensors twice; names must be unique", item.name);
    }
    if (!item.tensor.defined()) {
      fail<Error>("{}: is an undefined tensor; build it before averaging it", item.name);
    }
  }
  list_ = std::make_shared<const List>(List{std::move(tensors)});
}

std::vector<NamedTensor> ModelRef::tensors() const {
  if (list_) return list_->tensors;
  std::vector<NamedTensor> tensors;
  module_ ? collect(*module_, "", tensors) : collect(*script_, "", tensors);
  return tensors;
}

const void* ModelRef::identity() const {
  return module_ ? static_cast<const void*>(module_)
         : list_ ? static_cast<const void*>(list_.get())
                 : script_->_ivalue().get();
}

bool ModelRef::is_training() const {
  return module_ ? module_->is_training() : script_ && script_->is_training();
}

void ModelRef::train(bool on) const {
  if (module_) module_->train(on);
  if (script_) script_->train(on);
}

std::string ModelRef::class_name() const {
  return module_ ? module_->name() : list_ ? "list of tensors" : script_->type()->str();
}

}  // namespace polyak
