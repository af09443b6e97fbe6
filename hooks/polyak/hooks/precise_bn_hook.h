// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "polyak/runtime/hook.h"

namespace torch {
namespace nn {
class Module;
}
}  // namespace torch

namespace polyak {

class AveragedModel;
class Model;

struct POLYAK_API PreciseBNHookOptions : Options {
  PreciseBNHookOptions& num_samples(int64_t value) { return num_samples_ = value, *this; }
  int64_t num_samples() const { return num_samples_; }

  void visit(OptionVisitor& visitor) override;

 private:
  int64_t num_samples_ = 8192;
};

/// Re-estimates the statistics of BatchNorm layers for the averaged weights before validation, test
/// and save: the mean over training batches that the averaged model itself sees. Weights that were
/// averaged over a stretch of training (StochasticWeightAverage) never produced the running
/// statistics of any one model, and without this step they evaluate far below their worth.
///
/// Only layers that train in train mode get new statistics: those that are in eval mode at the end
/// of an iteration, or whose owner puts them there, keep theirs and compute with them. Every module
/// has its mode back afterwards.
///
/// Runs before EMAHook, whatever the order in the config (priority HIGH). Without an EMAHook it
/// re-estimates the model's own statistics. Named after mmpretrain's hook.
class POLYAK_API PreciseBNHook : public Hook {
 public:
  /// @throws ConfigError
  explicit PreciseBNHook(PreciseBNHookOptions options = {});

  std::string name() const override { return "PreciseBNHook"; }
  bool changes_checkpoints() const override { return true; }
  int priority() const override { return kHigh; }

  void check_run(Runner& runner) override;
  void after_train_iter(Runner& runner, int64_t batch, const Scalars& outputs) override;
  void before_val_epoch(Runner& runner) override { estimate(runner); }
  void before_test_epoch(Runner& runner) override { estimate(runner); }
  void before_save_checkpoint(Runner& runner, Value& checkpoint) override;
  void after_load_checkpoint(Runner& runner, Value& checkpoint) override;

 private:
  struct ModuleMode {
    std::shared_ptr<torch::nn::Module> module;
    bool training;
  };

  void estimate(Runner& runner);
  void estimate_model(Runner& runner, const Model& model) const;
  void set_training_modes(torch::nn::Module& root) const;

  PreciseBNHookOptions options_;
  std::vector<ModuleMode> modes_;  // at the end of the last iteration
  // The step of the last estimate for each average; for the model itself (nullptr) the iteration.
  std::map<const AveragedModel*, int64_t> estimated_at_;
};

}  // namespace polyak
