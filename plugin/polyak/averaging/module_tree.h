// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
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

  /// Whether every dictionary of parameters, buffers or children still has the same entries, and no
  /// new ones. The root must be alive; anything else that is gone is detected.
  bool is_current() const;

 private:
  /// A module, and how many of `seen_` are its parameters, its buffers and its children.
  struct Part {
    const torch::nn::Module* module;
    uint32_t parameters;
    uint32_t buffers;
    uint32_t children;
    const void* entries[2];  // where some of them were, to be read ahead
  };
  /// A script's object, and how many of `seen_` are its slots.
  struct ScriptPart {
    const c10::ivalue::Object* object;
    size_t size;
  };
  void add(const torch::nn::Module& module);
  void add(const c10::ivalue::Object& script);
  static void read_ahead(const Part& part);

  std::vector<Part> parts_;  // parents first
  std::vector<ScriptPart> script_parts_;
  std::vector<const void*> seen_;  // null: may change
};

}  // namespace polyak
