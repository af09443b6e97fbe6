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
class ModelRef;

struct POLYAK_API PreciseBNHookOptions : Options {
  PreciseBNHookOptions& num_samples(int64_t value) { return num_samples_ = value, *this; }
  int64_t num_samples() const { return num_samples_; }

  void visit(OptionVisitor& visitor) override;

 private:
  int64_t num_samples_ = 8192;
};

/// Re-estimates the statistics of BatchNorm layers for the averaged weights before validation, test
/// and save, as the mean over training batches that pass through the averaged model. Running
/// statistics of the model do not fit weights that are averaged over a long stretch of training
/// (StochasticWeightAverage), which evaluate far worse without this step.
///
/// Only layers in train mode get new statistics. Layers that are in eval mode at the end of an
/// iteration, or that a forward pass puts into eval mode, keep and use theirs. The modes of all
/// modules are restored afterwards.
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
  void estimate_model(Runner& runner, const ModelRef& model) const;
  void set_training_modes(torch::nn::Module& root) const;

  PreciseBNHookOptions options_;
  std::vector<ModuleMode> modes_;  // at the end of the last iteration
  // The step of the last estimate for each average, and its iteration for the model (nullptr).
  std::map<const AveragedModel*, int64_t> estimated_at_;
};

}  // namespace polyak
