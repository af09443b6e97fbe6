// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace torch {
namespace nn {
class Module;
}
namespace jit {
struct Module;
}
}  // namespace torch

namespace c10 {
namespace ivalue {
struct Object;
}
}  // namespace c10

namespace polyak {

/// The tensors and modules of a module tree, for detecting that one was replaced: by pointers only,
/// so that a check does not allocate or look up names.
class ModuleTree {
 public:
  /// Empty; never changes.
  ModuleTree() = default;
  /// Keeps nothing alive.
  explicit ModuleTree(const torch::nn::Module& root);
  /// Without integer buffers, which TorchScript's BatchNorm reassigns in each forward pass.
  explicit ModuleTree(const torch::jit::Module& root);

  /// Whether every dictionary of parameters, buffers or children that had an entry still has the
  /// same ones, and the root's dictionaries have no new ones. The root must be alive; anything else
  /// that is gone is detected.
  bool is_current() const;

 private:
  enum class Kind { tensors, modules, script };
  /// A dictionary of tensors or of modules, or a script's object, and how many of `seen_` are its
  /// entries.
  struct Part {
    const void* holder;
    Kind kind;
    size_t size;
  };
  void add(const torch::nn::Module& module, bool is_root);
  void add(const c10::ivalue::Object& script);

  std::vector<Part> parts_;        // parents first
  std::vector<const void*> seen_;  // null: may change
};

}  // namespace polyak
