// SPDX-License-Identifier: Apache-2.0
#include "polyak/averaging/module_tree.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>

#include "polyak/averaging/slot.h"

namespace polyak {
namespace {

using torch::nn::Module;
using Tensors = torch::OrderedDict<std::string, at::Tensor>;
using Children = torch::OrderedDict<std::string, std::shared_ptr<Module>>;

// LibTorch returns copies of a module's dictionaries, which cost more than an update of small
// tensors. An explicit instantiation may name private members, and a friend function returns them.
struct Parameters {
  using Type = Tensors Module::*;
  friend Type member(Parameters);
};
struct Buffers {
  using Type = Tensors Module::*;
  friend Type member(Buffers);
};
struct Submodules {
  using Type = Children Module::*;
  friend Type member(Submodules);
};
template <class Name, typename Name::Type pointer>
struct Reach {
  friend typename Name::Type member(Name) { return pointer; }
};
template struct Reach<Parameters, &Module::parameters_>;
template struct Reach<Buffers, &Module::buffers_>;
template struct Reach<Submodules, &Module::children_>;

const void* entry(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl();
}
const void* entry(const std::shared_ptr<Module>& module) {
  return module.get();
}

const void* entry(const c10::IValue& value) {
  return value.isTensor()   ? static_cast<const void*>(value.unsafeToTensorImpl())
         : value.isObject() ? static_cast<const void*>(&value.toObjectRef())
                            : nullptr;
}

bool holds(const c10::ivalue::Object& script, const void* const* seen, size_t size) {
  if (script.slots().size() != size) return false;
  for (const c10::IValue& value : script.slots()) {
    if (*seen && entry(value) != *seen) return false;
    ++seen;
  }
  return true;
}

template <class Dictionary>
bool holds(const void* dictionary, const void* const* seen, size_t size) {
  const auto& items = static_cast<const Dictionary*>(dictionary)->items();
  if (items.size() != size) return false;
  for (const auto& item : items) {
    if (entry(item.value()) != *seen++) return false;
  }
  return true;
}

}  // namespace

ModuleTree::ModuleTree(const Module& root) {
  add(root, /*is_root=*/true);
}

void ModuleTree::add(const Module& module, bool is_root) {
  const auto add_part = [&](const auto& dictionary, Kind kind) {
    // Checking thousands of empty ones would be wasted; those of the root distinguish an empty
    // model from another one at its address.
    if (dictionary.is_empty() && !is_root) return;
    parts_.push_back({&dictionary, kind, dictionary.size()});
    for (const auto& item : dictionary) seen_.push_back(entry(item.value()));
  };
  add_part(module.*member(Parameters()), Kind::tensors);
  add_part(module.*member(Buffers()), Kind::tensors);
  const Children& children = module.*member(Submodules());
  add_part(children, Kind::modules);
  for (const auto& child : children) add(*child.value(), /*is_root=*/false);
}

ModuleTree::ModuleTree(const torch::jit::Module& root) {
  add(*root._ivalue());
}

void ModuleTree::add(const c10::ivalue::Object& script) {
  const auto type = script.type();
  const std::vector<c10::IValue>& slots = script.slots();
  parts_.push_back({&script, Kind::script, slots.size()});
  for (size_t i = 0; i < slots.size(); ++i) {
    const bool is_model = slots[i].isModule() || type->is_parameter(i) || type->is_buffer(i);
    const bool is_integer = slots[i].isTensor() && slots[i].toTensor().defined() &&
                            !is_averageable(slots[i].toTensor());
    seen_.push_back(is_model && !is_integer ? entry(slots[i]) : nullptr);
  }
  for (const c10::IValue& value : slots) {
    if (value.isModule()) add(value.toObjectRef());
  }
}

bool ModuleTree::is_current() const {
  const void* const* seen = seen_.data();
  for (const Part& part : parts_) {
    // A module is inspected only after its parent was found to still have it.
    const bool same =
        part.kind == Kind::tensors ? holds<Tensors>(part.holder, seen, part.size)
        : part.kind == Kind::modules
            ? holds<Children>(part.holder, seen, part.size)
            : holds(*static_cast<const c10::ivalue::Object*>(part.holder), seen, part.size);
    if (!same) return false;
    seen += part.size;
  }
  return true;
}

}  // namespace polyak
