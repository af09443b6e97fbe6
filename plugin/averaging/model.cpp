#include "polyak/averaging/model.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>

#include "polyak/core/error.h"

namespace polyak {
namespace {

void collect(const torch::nn::Module& module, const std::string& prefix,
             std::vector<NamedTensor>& out) {
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

Model::Model(torch::nn::Module& module) : module_(&module) {}

Model::Model(std::shared_ptr<torch::nn::Module> module)
    : owner_(std::move(module)), module_(owner_.get()) {
  if (!module_) fail<Error>("the model is a null pointer; build it before averaging it");
}

Model::Model(const torch::jit::Module& module)
    : script_(std::make_shared<torch::jit::Module>(module)) {}

std::vector<NamedTensor> Model::tensors() const {
  std::vector<NamedTensor> tensors;
  module_ ? collect(*module_, "", tensors) : collect(*script_, "", tensors);
  return tensors;
}

const void* Model::identity() const {
  return module_ ? static_cast<const void*>(module_) : script_->_ivalue().get();
}

bool Model::is_training() const {
  return module_ ? module_->is_training() : script_->is_training();
}

void Model::train(bool on) const {
  module_ ? module_->train(on) : script_->train(on);
}

std::string Model::class_name() const {
  return module_ ? module_->name() : script_->type()->str();
}

}  // namespace polyak
