// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/config/options.h"

namespace polyak {

/// The top-level keys of a training config, with MMEngine's names.
struct TrainConfig : Options {
  Node model;
  Node train_dataloader, train_cfg, optim_wrapper, param_scheduler;
  Node val_dataloader, val_cfg, val_evaluator;
  Node test_dataloader, test_cfg, test_evaluator;
  Node default_hooks, custom_hooks;
  Node vis_backends;
  Node load_from;
  bool resume = false;
  std::string resume_options = "checkpoint";
  std::optional<std::string> work_dir;
  Node randomness;
  std::optional<std::string> device;
  Node env_cfg;
  std::string launcher = "none";
  bool find_unused_parameters = false;
  bool broadcast_buffers = false;
  bool sync_bn = false;
  Node auto_scale_lr;
  std::vector<std::string> plugins;
  void visit(OptionVisitor& visitor) override;
};

/// `train_cfg`: how long training lasts and when it validates.
struct TrainLoopOptions : Options {
  std::optional<std::string> type;
  std::optional<bool> by_epoch;
  std::optional<int64_t> max_epochs;
  std::optional<int64_t> max_iters;
  std::optional<int64_t> val_interval;
  int64_t val_begin = 1;
  Node dynamic_intervals;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;

  /// Whether the loop counts epochs, by `type`, otherwise by `by_epoch`; true by default.
  bool counts_epochs() const;
  /// Whether validation follows unit `done` (counted from 1) of `max` epochs or iterations.
  bool validates_after(int64_t done, int64_t max) const;

 private:
  int64_t interval_at(int64_t done) const;
};

/// `val_cfg` and `test_cfg`.
struct EvaluationLoopOptions : Options {
  std::string type = "ValLoop";
  void visit(OptionVisitor& visitor) override;
};

struct RandomnessOptions : Options {
  std::optional<int64_t> seed;
  bool deterministic = false;
  bool diff_rank_seed = false;
  void visit(OptionVisitor& visitor) override;
};

struct EnvOptions : Options {
  std::optional<int64_t> num_threads;
  Node dist_cfg;
  void visit(OptionVisitor& visitor) override;
};

/// `env_cfg.dist_cfg`: how processes reach each other.
struct DistOptions : Options {
  std::string backend = "gloo";
  double timeout = 1800;
  void visit(OptionVisitor& visitor) override;
};

/// `auto_scale_lr`.
struct AutoScaleLrOptions : Options {
  bool enable = false;
  int64_t base_batch_size = 0;
  void visit(OptionVisitor& visitor) override;
};

/// The hooks of a config in the order of their registration: MMEngine's defaults, which entries of
/// `default_hooks` replace by name, or remove by null; then other names of `default_hooks`; then
/// `custom_hooks`. By default a checkpoint is saved after each epoch, or at the end of a loop that
/// counts iterations.
std::vector<Node> hook_nodes(const Node& default_hooks, const Node& custom_hooks, bool by_epoch);

/// Gives the LoggerHook among the hooks the config's `vis_backends`, unless they are null.
/// @throws ConfigError if it has some of its own, or there is no LoggerHook
void set_vis_backends(const Node& vis_backends, std::vector<Node>& hooks);

/// Whether one of these hooks has a type.
bool has_hook(const std::vector<Node>& hooks, const std::string& type);

}  // namespace polyak
