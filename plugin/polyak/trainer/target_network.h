// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "polyak/averaging/averages.h"
#include "polyak/config/options.h"
#include "polyak/runtime/progress.h"

namespace polyak {

/// The keys of algorithms that learn from an average of their own network.
struct TargetOptions : Options {
  explicit TargetOptions(double momentum) : base_momentum(momentum) {}
  double base_momentum;
  double end_momentum = 0.0;
  std::optional<int64_t> max_iters;
  std::string target_update = "average";
  void visit(OptionVisitor& visitor) override;
};

/// The network whose outputs an online network learns from: the online network's CosineEMA, a child
/// of the algorithm (saved as `<name>.steps` and `<name>.module.*`), without gradients.
class TargetNetwork {
 public:
  /// @param online the network to average; cloneable
  /// @param progress the progress of the run that trains the algorithm; must outlive the object.
  /// Null: every update() updates the average, and the options must have max_iters
  /// @throws ConfigError if an option is out of range, or the length of the run is unknown
  TargetNetwork(std::string name, std::shared_ptr<torch::nn::Module> online,
                const TargetOptions& options, const Progress* progress);
  /// Registers the average as a child of the algorithm.
  void register_in(torch::nn::Module& owner) const;
  /// Becomes the target of a copy of the algorithm, with the same state.
  void clone_into(torch::nn::Module& owner, std::shared_ptr<torch::nn::Module> online);

  /// Updates the average with the online weights, once for each optimizer step; iterations that
  /// only accumulate gradients change nothing. Call it in each iteration, before the target's
  /// forward passes.
  /// @throws Error if it has counted more updates than the run made steps: weights of another run
  /// were loaded without after_load()
  void update();
  /// For Algorithm::after_load(). A resumed run keeps the target. A count of iterations, as in
  /// mmpretrain, is converted to optimizer steps, which is logged. The target of a new run starts
  /// as a copy of the online network.
  /// @throws CheckpointError if the count matches neither the run's steps nor its iterations
  void after_load(bool resuming);
  /// The averaged network, for forward passes under torch::NoGradGuard.
  template <class Net>
  std::shared_ptr<Net> net() const {
    return average_->template module<Net>();
  }
  CosineEMA& average() const { return *average_; }

 private:
  std::shared_ptr<CosineEMA> make_average() const;
  int64_t steps_done() const;
  void check_count();

  std::string name_;
  std::shared_ptr<torch::nn::Module> online_;
  CosineEMAOptions options_;
  std::string mode_;
  const Progress* progress_;
  std::shared_ptr<CosineEMA> average_;
  bool cloned_ = false;  // the online network gets new tensors after clone_into
};

}  // namespace polyak
