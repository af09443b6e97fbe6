// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/target_network.h"

#include <algorithm>
#include <utility>

#include "polyak/core/error.h"
#include "polyak/core/log.h"

namespace polyak {

void TargetOptions::visit(OptionVisitor& visitor) {
  visitor.key("base_momentum", &base_momentum,
              "Weight of the online network at the target's first updates (1 - decay).",
              open_interval(0, 1));
  visitor.key("end_momentum", &end_momentum, "The momentum that the cosine ends with.",
              closed_interval(0, 1));
  visitor.key("max_iters", &max_iters,
              "Updates over which the momentum goes to end_momentum; null: the length of the run.",
              count_from(1));
  visitor.choice("target_update", &target_update, {"average", "copy", "never"},
                 "The target: the online network's average, the online network itself, or its "
                 "initial weights.");
}

TargetNetwork::TargetNetwork(std::string name, std::shared_ptr<torch::nn::Module> online,
                             const TargetOptions& options, const Progress* progress)
    : name_(std::move(name)),
      online_(std::move(online)),
      mode_(options.target_update),
      progress_(progress) {
  check_options(options, name_);
  options_.momentum(options.base_momentum).end_momentum(options.end_momentum);
  if (options.max_iters) {
    options_.max_iters(*options.max_iters);
  } else if (progress) {
    options_.max_iters(std::max<int64_t>(progress->max_optimizer_steps, 1));  // 0: only evaluated
  }
  average_ = make_average();
}

std::shared_ptr<CosineEMA> TargetNetwork::make_average() const {
  return std::make_shared<CosineEMA>(*online_, options_);
}

void TargetNetwork::register_in(torch::nn::Module& owner) const {
  owner.register_module(name_, average_);
}

void TargetNetwork::clone_into(torch::nn::Module& owner,
                               std::shared_ptr<torch::nn::Module> online) {
  online_ = std::move(online);
  const std::shared_ptr<CosineEMA> before = average_;
  average_ = make_average();
  average_->load_state(before->state(), before->steps());
  register_in(owner);
  cloned_ = true;
}

/// The position of the run, by the clock of the average.
int64_t TargetNetwork::steps_done() const {
  return progress_->optimizer_steps < 0 ? progress_->iter : progress_->optimizer_steps;
}

void TargetNetwork::update() {
  if (cloned_) average_->rebind(*online_);
  cloned_ = false;
  if (mode_ == "copy") return average_->reset(*online_);
  if (progress_) {
    const int64_t done = steps_done();
    if (average_->steps() > done + 1) {
      fail<Error>(
          "{}: counts {} updates, but the run made {} optimizer steps; call after_load() after "
          "loading weights",
          name_, average_->steps(), done);
    }
    if (average_->steps() > done) return;
  }
  if (mode_ == "never" && average_->steps() > 0) return;
  average_->update_parameters(*online_);
}

void TargetNetwork::after_load(bool resuming) {
  if (!progress_ || mode_ == "copy") return;
  if (resuming) return check_count();
  if (average_->steps() == 0) return;
  log_info("{} starts as a copy of the online network, as in every new run", name_);
  average_->reset(*online_);
}

void TargetNetwork::check_count() {
  const int64_t steps = average_->steps(), done = steps_done();
  if (done == 0 && steps == 0) return;
  if (mode_ == "never" && steps > 0) {  // it never counts beyond 1
    average_->load_state(average_->state(), 1);
    return;
  }
  // The update for a step happens at its first iteration.
  const bool gathering = progress_->iter % progress_->accumulative_counts != 0 &&
                         progress_->iter < progress_->max_iters;
  const int64_t expected = done + (gathering ? 1 : 0);
  if (steps == expected) return;
  if (steps == progress_->iter) {
    log_info("{}.steps counts {} iterations; it goes on from {} optimizer steps", name_, steps,
             expected);
    average_->load_state(average_->state(), expected);
    return;
  }
  if (steps == done || steps == done + 1) return;  // accumulative_counts was different
  fail<CheckpointError>(
      "{}.steps is {}, but the run made {} optimizer steps in {} iterations, so its momentum is "
      "unknown; load only the weights, by load_from without resume",
      name_, steps, done, progress_->iter);
}

}  // namespace polyak
