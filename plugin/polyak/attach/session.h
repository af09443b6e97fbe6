// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/optim/optimizer.h>

#include <cstddef>
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

/// Writes one line to standard error, even if the program has closed its streams.
void say(std::string_view text);

/// The state of the preloaded library in a program. All methods may be called from any thread, do
/// not throw, and do nothing if called from within another one.
class Session {
 public:
  /// Receives bytes and returns how many it took, like LibTorch's writers.
  using Sink = std::function<size_t(const void*, size_t)>;
  /// Writes a module in the way in which the program wrote its own.
  using Export = std::function<void(const torch::jit::Module&, const Sink&)>;
  using Optimizer = torch::optim::Optimizer;

  /// @param dry_run 0, or optimizer steps after which the process ends with status 0, having said
  ///   what is averaged and written nothing
  /// @throws ConfigError for an invalid config
  explicit Session(AttachConfig config, int64_t dry_run = 0);

  /// The program asked a module for its `count` parameters, starting with `first`.
  /// @param fingerprint of its parameters: another one if they have other names or are others
  void module_seen(const ModelRef& module, size_t fingerprint);
  /// A parameter group was added to an optimizer.
  void group_added(const Optimizer& optimizer);
  /// Detects steps of the program's own optimizers, whose step() cannot be intercepted: after a
  /// step there are gradients and the weights have changed. Called before the gradients are zeroed.
  void zeroing_gradients(const Optimizer& optimizer);
  void zeroing_gradients(const torch::nn::Module& module);
  /// An intercepted step begins, so steps of this optimizer need not be detected.
  void stepping(const Optimizer& optimizer);
  /// An intercepted step has ended.
  void stepped(const Optimizer& optimizer);
  /// The program saved a module to a file, or to a stream if the path is empty.
  void saved(const torch::jit::Module& module, const std::string& path, const Export& write);
  /// Writes all averages that have changed since their last write.
  void write_averages();
  /// Writes the averages and the final messages. Later calls do nothing.
  void finish();

 private:
  /// An optimizer that was seen. It may have been destroyed.
  struct Watched {
    std::vector<WeakTensor> parameters;
    std::vector<size_t> group_sizes;  // the numbers of parameters of the optimizer's groups
    std::vector<Group*> groups;       // empty until a step with these parameters
    int64_t versions = 0;             // sum of the parameters' versions: increases with each change
    int64_t made = 0;          // its place in the order of creation, from 1; 0: not known yet
    std::string type;          // its class, once known
    bool intercepted = false;  // its step() is intercepted
    bool of_program = false;   // its steps are detected by changed weights
    bool looked_at = false;    // its parameters have been assigned to groups
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
  void drop_orphans(const std::vector<Group*>& groups);
  void add_to(Group& group, const std::vector<NamedTensor>& tensors);
  void add_buffers_and_frozen(Group& group);
  void step(Group& group);
  void name_files();
  AveragesRecord record_of(const Group& group, const Value& checkpoint) const;
  void write(Group& group);
  std::vector<std::string> last_lines() const;
  std::vector<std::string> dry_run_lines();
  [[noreturn]] void end_dry_run();
  void drop_expired_groups();
  void write_groups();

  AttachConfig config_;
  Catalog catalog_;
  std::mutex mutex_;
  TensorNames names_;
  std::unordered_map<const void*, size_t> trees_;  // fingerprints by module
  std::unordered_map<const void*, Watched> optimizers_;
  Groups groups_;
  int64_t dry_run_;  // steps until the process ends; 0: no dry run
  bool speaks_;      // says what was averaged; of several processes, only some do
  bool writes_;      // files; of several processes, only some do
  OutputFiles files_;
  std::set<std::string> modules_;                           // names of all modules
  std::unordered_map<const void*, std::string> unstepped_;  // names of parameters without a step
  int64_t optimizers_made_ = 0;
  int64_t steps_ = 0;  // of all optimizers
  bool groups_made_ = false;
  bool replaced_ = false;  // replaced parameters have been reported
  bool left_out_ = false;  // a parameter that cannot be averaged has been reported
  bool done_ = false;
};

}  // namespace polyak
