// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/optim/optimizer.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "polyak/attach/config.h"
#include "polyak/attach/groups.h"
#include "polyak/attach/output_files.h"
#include "polyak/attach/tensor_names.h"
#include "polyak/registry/registry.h"

namespace polyak {

/// One line on standard error, whatever became of the program's streams.
void say(std::string_view text);

/// What the preloaded library knows of the program that it is in, and does for it. Every method is
/// safe from any thread, throws nothing, and does nothing when it is called from within another.
class Session {
 public:
  /// Takes bytes, as LibTorch's writers do.
  using Sink = std::function<size_t(const void*, size_t)>;
  /// Writes a module as the program wrote its own.
  using Export = std::function<void(const torch::jit::Module&, const Sink&)>;
  using Optimizer = torch::optim::Optimizer;

  /// @throws ConfigError, or Error when nothing can be built from the config
  explicit Session(AttachConfig config);

  /// The program asked a module for its `count` parameters, of which `first` is the first.
  void module_seen(const Model& module, size_t count, const at::Tensor& first);
  void group_added(const Optimizer& optimizer);
  /// Sees steps of a program's own optimizers, whose step() cannot be intercepted: after one there
  /// are gradients and other weights. Called before the gradients go.
  void zeroing_gradients(const Optimizer& optimizer);
  void zeroing_gradients(const torch::nn::Module& module);
  /// An intercepted step begins: those of this optimizer need no looking for.
  void stepping(const Optimizer& optimizer);
  void stepped(const Optimizer& optimizer);
  /// The program saved a module to a file, or, with an empty path, elsewhere.
  void saved(const torch::jit::Module& module, const std::string& path, const Export& write);
  /// Writes what is not written yet.
  void write_averages();
  /// The same for the last time: nothing is done after that.
  void finish();

 private:
  /// An optimizer, or what was one at its address.
  struct Watched {
    std::vector<WeakTensor> parameters;
    std::vector<size_t> group_sizes;  // of the optimizer's groups, in that order
    std::vector<Group*> groups;       // empty until a step with these parameters
    int64_t versions = 0;             // of the parameters: the sum grows with each change
    int64_t made = 0;                 // its place among the optimizers, from 1; 0: not asked yet
    std::string type;                 // its class, once that can be asked
    bool intercepted = false;         // its steps are seen as they happen
    bool of_program = false;          // its steps show in what they change
    bool looked_at = false;           // its parameters have their groups
  };

  template <class Work>
  void guarded(const char* doing, Work work);
  Watched& watched(const Optimizer& optimizer, bool before_step = false);
  void see_replaced(Watched& watched, const std::vector<WeakTensor>& before, bool before_step);
  void take_place(Watched& watched);
  bool changed(Watched& watched);
  std::vector<Watched*> not_intercepted();
  std::vector<Watched*> not_intercepted_with(const std::vector<at::Tensor>& tensors);
  void see_steps(const std::vector<Watched*>& optimizers);
  void step(Watched& watched);
  void find_groups(Watched& watched);
  void add_to(Group& group, const std::vector<NamedTensor>& tensors);
  void add_buffers_and_frozen(Group& group);
  void step(Group& group);
  void name_files();
  void write(Group& group);
  std::vector<std::string> last_lines() const;
  void drop_expired_groups();
  void write_groups();

  AttachConfig config_;
  Catalog catalog_;
  std::mutex mutex_;
  TensorNames names_;
  struct Tree {
    size_t count;
    const void* first;
  };
  std::unordered_map<const void*, Tree> trees_;  // modules that were seen
  std::unordered_map<const void*, Watched> optimizers_;
  Groups groups_;
  OutputFiles files_;
  std::set<std::string> modules_;                           // names of modules that were seen
  std::unordered_map<const void*, std::string> unstepped_;  // parameters of modules, with names
  int64_t optimizers_made_ = 0;
  bool groups_made_ = false;
  bool stepped_ = false;   // some optimizer
  bool replaced_ = false;  // parameters were, which was said
  bool left_out_ = false;  // a parameter, which was said
  bool done_ = false;
};

}  // namespace polyak
