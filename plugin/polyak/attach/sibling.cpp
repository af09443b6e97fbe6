// SPDX-License-Identifier: Apache-2.0
#include "polyak/attach/sibling.h"

#include <ATen/ATen.h>

#include <cctype>
#include <filesystem>

namespace polyak {
namespace {

using ObjectPtr = c10::intrusive_ptr<c10::ivalue::Object>;

class Copier {
 public:
  Copier(const AveragedTensors& averages,
         const std::function<at::Tensor(const at::Tensor&, const std::string&)>& seen)
      : averages_(averages), seen_(seen) {}

  ObjectPtr copy(const c10::ivalue::Object& object, const std::string& prefix) {
    ObjectPtr& copied = copied_[&object];  // a module with two names is copied once
    if (copied) return copied;
    ObjectPtr result = copied = object.copy();
    for (size_t i = 0; i < object.slots().size(); ++i) {
      const c10::IValue& slot = object.getSlot(i);
      const std::string name = prefix + object.type()->getAttributeName(i);
      if (slot.isModule()) {
        result->setSlot(i, copy(slot.toObjectRef(), name + "."));
      } else if (slot.isTensor() && slot.toTensor().defined()) {
        const at::Tensor& tensor = slot.toTensor();
        const at::Tensor stand_in = seen_(tensor, name);
        at::Tensor average = averages_.find(tensor);
        if (!average.defined()) average = stand_in;
        if (!average.defined()) continue;
        found_ = true;
        result->setSlot(i, average);
      }
    }
    return result;
  }

  bool found() const { return found_; }

 private:
  const AveragedTensors& averages_;
  const std::function<at::Tensor(const at::Tensor&, const std::string&)>& seen_;
  std::unordered_map<const void*, ObjectPtr> copied_;
  bool found_ = false;
};

}  // namespace

std::string sibling_path(const std::string& path, const std::string& mark) {
  const std::filesystem::path file(path);
  const std::string extension = file.extension().string();
  // The end of `epoch.2` is a number, not an extension.
  const bool is_type =
      extension.size() > 1 && std::isdigit(static_cast<unsigned char>(extension[1])) == 0;
  std::filesystem::path name = is_type ? file.stem() : file.filename();
  name += "." + mark;
  if (is_type) name += extension;
  return (file.parent_path() / name).string();
}

void AveragedTensors::add(const at::Tensor& tensor, const at::Tensor& average) {
  by_tensor_.emplace(tensor.unsafeGetTensorImpl(), Pair{tensor, average});
  if (tensor.numel() > 0) by_memory_.emplace(tensor.data_ptr(), Pair{tensor, average});
}

at::Tensor AveragedTensors::find(const at::Tensor& tensor) const {
  const Pair* pair = nullptr;
  const auto same = by_tensor_.find(tensor.unsafeGetTensorImpl());
  if (same != by_tensor_.end()) {
    pair = &same->second;
  } else if (tensor.layout() == at::kStrided && tensor.has_storage()) {
    const auto alike = by_memory_.find(tensor.data_ptr());
    if (alike != by_memory_.end() && alike->second.tensor.sizes() == tensor.sizes() &&
        alike->second.tensor.strides() == tensor.strides() &&
        alike->second.tensor.scalar_type() == tensor.scalar_type()) {
      pair = &alike->second;
    }
  }
  if (!pair) return {};
  const at::Tensor average = pair->average.detach().to(tensor.device(), tensor.scalar_type());
  return average.set_requires_grad(tensor.requires_grad());
}

std::optional<torch::jit::Module> averaged_copy(
    const torch::jit::Module& module, const AveragedTensors& averages,
    const std::function<at::Tensor(const at::Tensor&, const std::string&)>& seen) {
  Copier copier(averages, seen);
  torch::jit::Module copy(copier.copy(*module._ivalue(), ""));
  if (!copier.found()) return std::nullopt;
  return copy;
}

}  // namespace polyak
