#pragma once

#include <map>
#include <string>

#include "polyak/runtime/hook.h"

namespace polyak {

class AveragedModel;

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
/// Runs before EMAHook, whatever the order in the config (priority HIGH). Without an EMAHook it
/// re-estimates the model's own statistics. Named after mmpretrain's hook.
class POLYAK_API PreciseBNHook : public Hook {
 public:
  /// @throws ConfigError
  explicit PreciseBNHook(PreciseBNHookOptions options = {});

  std::string name() const override { return "PreciseBNHook"; }
  int priority() const override { return kHigh; }

  void check_run(Runner& runner) override;
  void before_val_epoch(Runner& runner) override { estimate(runner); }
  void before_test_epoch(Runner& runner) override { estimate(runner); }
  void before_save_checkpoint(Runner& runner, Value& checkpoint) override;
  void after_load_checkpoint(Runner& runner, Value& checkpoint) override;

 private:
  void estimate(Runner& runner);

  PreciseBNHookOptions options_;
  // The step of the last estimate for each average; for the model itself (nullptr) the iteration.
  std::map<const AveragedModel*, int64_t> estimated_at_;
};

}  // namespace polyak
