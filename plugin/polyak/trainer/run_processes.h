// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/model.h"
#include "polyak/averaging/process_group.h"
#include "polyak/checkpoint/value.h"
#include "polyak/config/node.h"
#include "polyak/runtime/progress.h"
#include "polyak/trainer/train_config.h"

namespace polyak {

/// The processes of a run by a config: which one this is, and what all of them decide together. A
/// run of one process communicates nothing.
class RunProcesses {
 public:
  RunProcesses() = default;
  /// Joins the processes that the config's launcher started, and compares the configs.
  /// @param config has the command line's values
  /// @throws ConfigError, ProcessGroupError
  RunProcesses(Node& config, const TrainConfig& options);

  const std::shared_ptr<ProcessGroup>& group() const { return group_; }
  /// A seed that is the same in all processes, for configs without one; nothing for one process.
  std::optional<int64_t> drawn_seed() const { return drawn_seed_; }
  int64_t rank() const { return group_ ? group_->rank() : 0; }
  int64_t size() const { return size_of(group_.get()); }
  bool is_main() const { return polyak::is_main(group_.get()); }

  /// Calls `function` in each process; if it throws in any of them, all throw.
  void together(const std::function<void()>& function) const;
  /// Texts by what they are of: "config". @throws ConfigError naming the first that differs
  using Facts = std::vector<std::pair<std::string, std::string>>;
  void check_same(const Facts& facts) const;
  /// Gives all processes the tensors of process 0.
  void share(const std::vector<NamedTensor>& tensors, const char* what) const;
  /// Replaces numbers that add up by their sums.
  void add_up(const at::Tensor& numbers, const char* what) const;
  /// Replaces the gradients in a checkpoint, which are sums of this process alone, by their means.
  void share_gradients(const std::vector<NamedTensor>& parameters, Value& gradients) const;

  /// Adds the random states of all processes to the one of process 0, which is saved.
  void add_states(Value& random_state) const;

  /// What happened in an optimizer step, of all processes.
  struct Step {
    Scalars losses;  // means over the samples of the iteration
    bool stop = false;
    int signal = 0;  // the largest number
  };
  /// Puts together what the processes know.
  /// @param mine of this process: losses of its samples; empty if it has none
  /// @param share its part of the iteration's samples, from 0 to 1
  Step agree(const Step& mine, double share);
  /// Remembers a loss that is not finite, of an iteration that only accumulates; the next agree()
  /// reports it.
  void note(const Scalars& losses);

 private:
  std::shared_ptr<ProcessGroup> group_;
  void merge_names(const Scalars& mine);

  std::optional<int64_t> drawn_seed_;
  std::vector<std::string> names_;  // of the losses, sorted, the same in all processes
  Scalars invalid_;                 // noted since the last agree()
};

/// Makes the buffers that change between construction and take(), by forward passes in each of
/// several processes, the means over them: statistics of batches become those of all batches.
class MeanOfBuffers {
 public:
  MeanOfBuffers(const RunProcesses& processes, const ModelRef& model);
  void take() const;

 private:
  const RunProcesses& processes_;
  struct Item {
    at::Tensor buffer, before;
  };
  std::vector<Item> items_;  // empty for one process
};

}  // namespace polyak
