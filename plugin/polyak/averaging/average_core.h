// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "polyak/averaging/averaged_tensors.h"
#include "polyak/averaging/model.h"
#include "polyak/averaging/model_binding.h"
#include "polyak/averaging/model_copy.h"
#include "polyak/averaging/precision.h"
#include "polyak/averaging/process_group.h"
#include "polyak/averaging/step_counter.h"
#include "polyak/averaging/swap_state.h"
#include "polyak/averaging/tensor_rule.h"
#include "polyak/averaging/update_engine.h"
#include "polyak/rules/average_options.h"
#include "polyak/rules/average_scope.h"

namespace polyak {

/// All state of an AveragedModel except its rule: the owners of its parts, and operations that
/// involve several of them. Call ready() before reading or writing averages; an update calls
/// prepare() instead.
struct AverageCore {
  using Factory = std::function<std::shared_ptr<torch::nn::Module>()>;
  using Move = std::function<at::Tensor(const at::Tensor&)>;
  struct Options {
    int64_t interval;
    bool update_buffers;
    bool skip_nonfinite;
    Precision precision;
    std::optional<c10::Device> device;  // empty: the devices of the model's tensors
    AverageScope scope = {};
    AverageStart start = AverageStart::first_update;
    int64_t begins_after = 0;
    std::optional<WriteBackOptions> write_back = {};
    bool needs_batch_size = false;
    bool shard = false;
    int64_t verify = 0;

    /// Whether an average with these options averages the same tensors of a model.
    bool covers_as(const Options& other) const {
      return update_buffers == other.update_buffers && scope == other.scope;
    }
  };

  /// @param self the average as a module, which outlives this object; gets the buffer `steps` and,
  ///   from bind(), the child `module`
  AverageCore(torch::nn::Module& self, const Options& options, Factory factory,
              std::shared_ptr<TensorRule> tensor_rule = nullptr);

  /// Waits for the last update, continues from values that others wrote into the module, and
  /// follows the model's dtypes and devices. The average is whole then: if processes have parts of
  /// it, all of them must call this.
  AverageCore& ready();
  /// The same, but a part stays one: for what reads averages where they are.
  AverageCore& current();
  /// The same for operations that a swap forbids. @throws Error naming `what` during a swap
  AverageCore& ready_for(const char* what);
  /// Looks up the model's tensors by name. @throws Error for one that cannot be averaged
  void bind(const ModelRef& model);
  /// The same for callers that only want to know of changes: a part stays one if there are none.
  void rebind(const ModelRef& model);
  /// Ensures that the plan fits the current model. @throws Error during a swap
  void prepare(const ModelRef& model);
  /// Continues from the module's tensors, including steps, after others wrote them.
  void sync_from_module();
  /// Copies averages that are stored separately into the module's tensors.
  void refresh_module();
  /// Unlike torch::nn::Module::to, keeps tied tensors tied, and does not move steps.
  void move(const Move& moved);
  /// Puts the averaged weights into the model until the returned state is destroyed.
  std::shared_ptr<SwapState> swap_into_model(SwapMode mode);
  bool is_swapped() const { return !swap.expired(); }
  /// What bind() and prepare() found in a model whose layers changed. @return a line to log;
  /// usually empty
  std::string take_changes();
  /// @throws Error if a CUDA graph is being captured that cannot capture the update
  void check_capture() const;
  /// Counts a skipped update. @return a warning to log; usually empty
  std::string count_skipped();

  /// What an update does.
  struct Position {
    int64_t since_start;  // Clock::updates; negative before the average starts
    bool starts;          // copies the model
    bool averages;
  };
  /// @param k the number of the update, from 0
  Position position(int64_t k) const;
  /// What the rule's weight at update k depends on.
  Clock clock(int64_t k) const;
  /// The update at which the average starts, or last started.
  int64_t origin() const { return std::max(begun_at.value_or(options.begins_after), restarted_at); }
  bool has_started() const { return counter.value() > origin(); }
  /// After the number of updates was set from outside: what it says of their begin is unknown.
  /// @param before the number until then
  void count_changed(int64_t before);
  /// Makes the average a copy of the model.
  void start_from_model();
  /// Starts what the rule keeps from the averages, after these were set.
  /// @param names those that were set; null: all
  void take_values(const std::set<std::string>* names = nullptr);
  /// Writes the average into the model if that is due after update k, and restarts it if the
  /// options say so.
  void write_back(int64_t k);

  bool is_verify_due() const {
    return options.verify > 0 && size_of(processes.get()) > 1 &&
           (counter.value() + skipped) % options.verify == 0;
  }
  /// @throws ProcessGroupError naming the first tensor that differs between processes
  void verify(const std::string& rule_name, const Node& rule_options);

  const Options options;
  std::shared_ptr<ProcessGroup> processes;  // null: this one alone
  bool same_buffers = true;                 // in all of them
  int64_t skipped = 0;
  int64_t batch_size = 0;                   // samples of an optimizer step; 0: unknown
  std::optional<int64_t> begun_at;          // by a loaded state, in place of options.begins_after
  int64_t restarted_at = 0;                 // the update that the last restart counts from
  double filled = 0;                        // Clock::filled
  bool wrote_back = false;                  // by the last update
  std::shared_ptr<TensorRule> tensor_rule;  // null: the average is a weighted mean
  StepCounter counter;
  ModelCopy copy;
  ModelBinding binding;
  AveragedTensors tensors;
  StallCheck stall;
  std::weak_ptr<SwapState> swap;  // the active one
  UpdateEngine engine;            // uses the tensors from another thread: destroyed first

 private:
  void follow_model();
  bool shards() const { return options.shard && size_of(processes.get()) > 1; }
  void shard();
  void gather();
  void follow_in_parts(const ModelRef& model);

  torch::nn::Module& self_;
  Factory factory_;
  std::string changes_;
  int64_t changed_ = 0;
};

}  // namespace polyak
