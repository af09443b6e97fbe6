#include "polyak/averaging/module_tree.h"

#include <torch/nn/module.h>

#include <memory>
#include <string>

namespace polyak {
namespace {

using torch::nn::Module;
using Tensors = torch::OrderedDict<std::string, at::Tensor>;
using Children = torch::OrderedDict<std::string, std::shared_ptr<Module>>;

// LibTorch hands out copies of a module's dictionaries, which cost more than an update of small
// tensors does. An explicit instantiation may name private members, and a friend hands them on.
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
  add(root);
}

void ModuleTree::add(const Module& module) {
  const auto add_part = [&](const auto& dictionary, bool of_modules) {
    if (dictionary.is_empty()) return;
    parts_.push_back({&dictionary, of_modules, dictionary.size()});
    for (const auto& item : dictionary) seen_.push_back(entry(item.value()));
  };
  add_part(module.*member(Parameters()), false);
  add_part(module.*member(Buffers()), false);
  const Children& children = module.*member(Submodules());
  add_part(children, true);
  for (const auto& child : children) add(*child.value());
}

bool ModuleTree::is_current() const {
  const void* const* seen = seen_.data();
  for (const Part& part : parts_) {
    // A module is looked into only after its parent was seen to have it still.
    const bool same = part.of_modules ? holds<Children>(part.dictionary, seen, part.size)
                                      : holds<Tensors>(part.dictionary, seen, part.size);
    if (!same) return false;
    seen += part.size;
  }
  return true;
}

}  // namespace polyak
