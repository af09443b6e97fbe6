#pragma once

#include <cstddef>
#include <vector>

namespace torch {
namespace nn {
class Module;
}
}  // namespace torch

namespace polyak {

/// Which tensors and modules a tree of modules is made of, to notice that one was replaced: by
/// pointers alone, so that asking allocates nothing and looks no name up.
class ModuleTree {
 public:
  /// Of nothing; never changes.
  ModuleTree() = default;
  /// Keeps nothing alive.
  explicit ModuleTree(const torch::nn::Module& root);

  /// Whether every dictionary of parameters, buffers or children that had an entry still has the
  /// same ones. The root must live; what else is gone is noticed.
  bool is_current() const;

 private:
  /// A dictionary of tensors or of modules, and how many of `seen_` are its entries.
  struct Part {
    const void* dictionary;
    bool of_modules;
    size_t size;
  };
  void add(const torch::nn::Module& module);

  std::vector<Part> parts_;  // those of parents first
  std::vector<const void*> seen_;
};

}  // namespace polyak
