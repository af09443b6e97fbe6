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

/// Whether the items are the next of those seen, which it passes.
template <class Items>
bool are_next(const Items& items, const void* const*& seen) {
  for (const auto& item : items) {
    if (entry(item.value()) != *seen++) return false;
  }
  return true;
}

// Parts to read ahead. A module's three dictionaries are in as many cache lines, two of them often
// empty: with that, the walk takes less time than one over the others without.
constexpr ptrdiff_t kAhead = 16;

}  // namespace

ModuleTree::ModuleTree(const Module& root) {
  add(root);
}

void ModuleTree::add(const Module& module) {
  const auto add_entries = [&](const auto& dictionary) {
    for (const auto& item : dictionary) seen_.push_back(entry(item.value()));
    return static_cast<uint32_t>(dictionary.size());
  };
  const Tensors& parameters = module.*member(Parameters());
  const Tensors& buffers = module.*member(Buffers());
  const Children& children = module.*member(Submodules());
  Part part{&module, 0, 0, 0, {&parameters, &parameters}};
  part.parameters = add_entries(parameters);
  part.buffers = add_entries(buffers);
  part.children = add_entries(children);
  if (!parameters.is_empty()) {
    part.entries[0] = &parameters.front().value();
    part.entries[1] = &parameters.back().value();
  }
  if (!buffers.is_empty()) part.entries[1] = &buffers.front().value();
  if (!children.is_empty()) part.entries[1] = &children.front().value();
  parts_.push_back(part);
  for (const auto& child : children) add(*child.value());
}

ModuleTree::ModuleTree(const torch::jit::Module& root) {
  add(*root._ivalue());
}

void ModuleTree::add(const c10::ivalue::Object& script) {
  const auto type = script.type();
  const std::vector<c10::IValue>& slots = script.slots();
  script_parts_.push_back({&script, slots.size()});
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

/// The module may be gone: this only makes addresses, and reading ahead from any address is
/// allowed.
void ModuleTree::read_ahead(const Part& part) {
  __builtin_prefetch(&(part.module->*member(Parameters())).items());
  __builtin_prefetch(&(part.module->*member(Buffers())).items());
  __builtin_prefetch(&(part.module->*member(Submodules())).items());
  __builtin_prefetch(part.entries[0]);
  __builtin_prefetch(part.entries[1]);
}

bool ModuleTree::is_current() const {
  const void* const* seen = seen_.data();
  const Part* const end = parts_.data() + parts_.size();
  for (const Part* at = parts_.data(); at != end; ++at) {
    const Part& part = *at;
    if (end - at > kAhead) read_ahead(at[kAhead]);
    // A module is inspected only after its parent was found to still have it.
    const auto& parameters = (part.module->*member(Parameters())).items();
    const auto& buffers = (part.module->*member(Buffers())).items();
    const auto& children = (part.module->*member(Submodules())).items();
    if (parameters.size() != part.parameters || buffers.size() != part.buffers ||
        children.size() != part.children) {
      return false;
    }
    if (!are_next(parameters, seen) || !are_next(buffers, seen) || !are_next(children, seen)) {
      return false;
    }
  }
  for (const ScriptPart& part : script_parts_) {
    if (!holds(*part.object, seen, part.size)) return false;
    seen += part.size;
  }
  return true;
}

}  // namespace polyak
