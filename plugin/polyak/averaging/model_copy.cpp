// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/model_copy.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <set>

#include "polyak/core/error.h"

namespace polyak {
namespace {

/// Cloning runs a model's random initialisation; the program's random numbers must not change.
class KeepRandomState {
 public:
  KeepRandomState()
      : generator_(at::detail::getDefaultCPUGenerator()), state_(generator_.get_state()) {}
  ~KeepRandomState() { generator_.set_state(state_); }
  KeepRandomState(const KeepRandomState&) = delete;
  KeepRandomState& operator=(const KeepRandomState&) = delete;

 private:
  at::Generator generator_;
  at::Tensor state_;
};

void copy_training_flags(const torch::nn::Module& from, torch::nn::Module& to) {
  to.train(from.is_training());  // sets the children too, so parents come first
  const auto targets = to.named_children();
  for (const auto& child : from.named_children()) {
    if (const auto* target = targets.find(child.key()))
      copy_training_flags(*child.value(), **target);
  }
}

/// A tree of plain modules that holds tensors under their dotted names. It replaces the copy of a
/// model that cannot be cloned, so that names, saving and moving still work.
std::shared_ptr<torch::nn::Module> make_skeleton(const std::vector<NamedTensor>& tensors) {
  auto root = std::make_shared<torch::nn::Module>("AveragedTensors");
  for (const NamedTensor& item : tensors) {
    std::shared_ptr<torch::nn::Module> at = root;
    size_t begin = 0;
    for (size_t dot; (dot = item.name.find('.', begin)) != std::string::npos; begin = dot + 1) {
      const std::string child = item.name.substr(begin, dot - begin);
      const auto children = at->named_children();
      const auto* found = children.find(child);
      at = found ? *found : at->register_module(child, std::make_shared<torch::nn::Module>(child));
    }
    at::Tensor value = item.tensor.detach().clone();
    item.buffer ? at->register_buffer(item.name.substr(begin), value)
                : at->register_parameter(item.name.substr(begin), value, /*requires_grad=*/false);
  }
  return root;
}

}  // namespace

ModelCopy copy_model(const ModelRef& model, const std::vector<NamedTensor>& tensors,
                     const std::function<std::shared_ptr<torch::nn::Module>()>& factory,
                     const std::optional<c10::Device>& device) {
  ModelCopy copy;
  if (factory) {
    const KeepRandomState keep;
    copy.module = factory();
    if (!copy.module) fail<Error>("the module factory returned no module");
  } else if (!model.nn_module()) {
    copy.why_not_to_run =
        model.is_list() ? "it is a list of tensors" : "it is a TorchScript module";
  } else {
    const KeepRandomState keep;
    try {
      copy.module = device ? model.nn_module()->clone(*device) : model.nn_module()->clone();
    } catch (const std::exception& error) {
      copy.why_not_to_run = first_line(error);
    }
  }
  if (!copy.module) copy.module = make_skeleton(tensors);
  if (device) copy.module->to(*device);
  if (model.nn_module()) copy_training_flags(*model.nn_module(), *copy.module);
  return copy;
}

void use_skeleton_if_outdated(ModelCopy& copy, const std::vector<NamedTensor>& tensors) {
  std::set<std::string> lacking;
  for (const NamedTensor& item : tensors) lacking.insert(item.name);
  std::string extra;
  for (const NamedTensor& item : ModelRef(copy.module).tensors()) {
    if (lacking.erase(item.name) == 0) extra = item.name;
  }
  if (lacking.empty() && extra.empty()) return;
  copy.why_not_to_run =
      lacking.empty()
          ? fmt::format("its copy has {}, which was removed from the model", extra)
          : fmt::format("its copy lacks {}, which was added to the model", *lacking.begin());
  const bool training = copy.module->is_training();
  copy.module = make_skeleton(tensors);
  copy.module->train(training);
}

}  // namespace polyak
