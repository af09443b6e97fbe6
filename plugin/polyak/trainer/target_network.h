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

/// The keys of an algorithm that learns from an average of its own network.
struct TargetOptions : Options {
  explicit TargetOptions(double momentum) : base_momentum(momentum) {}
  double base_momentum;
  double end_momentum = 0.0;
  std::optional<int64_t> max_iters;
  std::string target_update = "average";
  void visit(OptionVisitor& visitor) override;
};

/// The network whose outputs an online network learns from: its CosineEMA, a child of the algorithm
/// (saved as `<name>.steps` and `<name>.module.*`), without gradients.
class TargetNetwork {
 public:
  /// @param online the network that is averaged; cloneable
  /// @param progress of the run that trains the algorithm, kept; null: every update() is one of the
  ///   average, and the options must give max_iters
  /// @throws ConfigError when an option is out of range, or nothing says how long the run is
  TargetNetwork(std::string name, std::shared_ptr<torch::nn::Module> online,
                const TargetOptions& options, const Progress* progress);
  /// Makes the average a child of the algorithm.
  void register_in(torch::nn::Module& owner) const;
  /// Becomes the target of a copy of the algorithm, with the same state.
  void clone_into(torch::nn::Module& owner, std::shared_ptr<torch::nn::Module> online);

  /// Takes the online weights in: once for each optimizer step, so iterations that only accumulate
  /// gradients change nothing. Call it in each iteration, before the target's forward passes.
  /// @throws Error when it counted more updates than the run makes steps: weights of another run
  /// were loaded without after_load()
  void update();
  /// What Algorithm::after_load() says. A run that goes on keeps the target. A count of iterations,
  /// as mmpretrain's, becomes one of optimizer steps, with a line that says so. A new run's target
  /// starts as a copy of the online network.
  /// @throws CheckpointError when the count is that of neither the run's steps nor its iterations
  void after_load(bool resuming);
  /// The averaged network, for forward passes; keep them under torch::NoGradGuard.
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
