// SPDX-License-Identifier: Apache-2.0
#include "polyak/runtime/run_loop.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>
#include <vector>

#include "polyak/averaging/average_state.h"
#include "polyak/core/cleanup.h"
#include "polyak/core/log.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/state_dict.h"

namespace polyak {
namespace {

/// The current averages of a run, for restoring them.
class KeptAverages {
 public:
  explicit KeptAverages(const AverageSet& averages) {
    for (const NamedAverage& item : averages) {
      kept_.emplace_back(item.average, item.average->state_dict().clone());
    }
  }
  void put_back() const {
    for (const auto& [average, state] : kept_) average->load_state_dict(state);
  }

 private:
  std::vector<std::pair<std::shared_ptr<AveragedModel>, AverageState>> kept_;
};

}  // namespace

RunLoop::RunLoop(Runner& runner, const char* name) : runner_(runner), name_(name) {}

void RunLoop::set_length(const RunLength& length, int64_t iters) {
  if (phase_ != Phase::built) fail<Error>("{}: set_length: the run has begun", name_);
  progress_ = Progress();
  progress_.by_epoch = length.by_epoch;
  progress_.max_epochs = length.max_epochs;
  progress_.epoch_length = length.epoch_length;
  progress_.max_iters = length.max_iters;
  progress_.accumulative_counts = length.accumulative_counts;
  progress_.batch_size = length.batch_size;
  progress_.max_optimizer_steps = progress_.steps_in(length.max_iters);
  progress_.iter = progress_.optimizer_steps = iters_at_step_ = iters;
  batch_ = length.by_epoch ? 0 : iters;
}

bool RunLoop::in_training() const {
  const Phase phase = phase_of_training();
  return phase != Phase::built && phase != Phase::ready && phase != Phase::ended;
}

RunPlace RunLoop::place() const {
  const int64_t iter_ends = phase_of_training() == Phase::after_iteration ? 1 : 0;
  const int64_t epoch_ends = phase_of_training() == Phase::after_epoch ? 1 : 0;
  RunPlace place;
  place.epochs = progress_.epoch + epoch_ends;
  place.iters = progress_.iter + iter_ends;
  place.batch = batch_ + iter_ends;
  place.between_steps = place.iters > iters_at_step_;
  return place;
}

// ---- which calls are allowed

void RunLoop::check_call(const char* call) const {
  if (phase_ == Phase::evaluating) {
    fail<Error>("{}: {}: a validation or test is running; release its guard first", name_, call);
  }
  if (phase_ == Phase::after_iteration || phase_ == Phase::after_epoch) {
    fail<Error>("{}: {}: hooks are being called; only the training loop may call it", name_, call);
  }
}

void RunLoop::check_iteration_ended(const char* call) const {
  if (phase_ != Phase::in_iteration && phase_ != Phase::after_iteration) return;
  fail<Error>("{}: {}: iteration {} has not ended; call after_iter() first", name_, call,
              progress_.iter + 1);
}

void RunLoop::enter_training(const char* call) {
  if (phase_ == Phase::ended) {
    fail<Error>("{0}: {1}: after_train() ended this run; make a new {0} for another", name_, call);
  }
  if (phase_ == Phase::built) before_run();
  if (phase_ != Phase::ready) return;
  phase_ = Phase::between_epochs;
  runner_.hooks().call([&](Hook& hook) { hook.before_train(runner_); });
}

/// @param seen whether the loop itself reports the beginning
void RunLoop::enter_epoch(const char* call, bool seen) {
  enter_training(call);
  if (phase_ != Phase::between_epochs) return;
  phase_ = Phase::in_epoch;
  began_unseen_ = !seen;
  runner_.hooks().call([&](Hook& hook) { hook.before_train_epoch(runner_); });
}

void RunLoop::enter_iter(const char* call, bool seen) {
  enter_epoch(call, /*seen=*/false);
  if (phase_ != Phase::in_epoch) return;
  phase_ = Phase::in_iteration;
  began_unseen_ = !seen;
  logged_.clear();
  runner_.hooks().call([&](Hook& hook) { hook.before_train_iter(runner_, batch_); });
}

// ---- the points

void RunLoop::before_run() {
  if (phase_ != Phase::built) fail<Error>("{}: before_run: was already called", name_);
  phase_ = Phase::ready;
  runner_.hooks().call([&](Hook& hook) { hook.before_run(runner_); });
}

void RunLoop::before_train() {
  check_call("before_train");
  if (phase_ != Phase::built && phase_ != Phase::ready && phase_ != Phase::ended) {
    fail<Error>("{}: before_train: was already called", name_);
  }
  enter_training("before_train");
}

void RunLoop::before_epoch() {
  check_call("before_epoch");
  if (phase_ == Phase::in_epoch || phase_ == Phase::in_iteration) {
    fail<Error>("{}: before_epoch: epoch {} has not ended; call after_epoch() first", name_,
                progress_.epoch + 1);
  }
  enter_epoch("before_epoch", /*seen=*/true);
}

void RunLoop::before_iter() {
  check_call("before_iter");
  check_iteration_ended("before_iter");
  enter_iter("before_iter", /*seen=*/true);
}

void RunLoop::after_step() {
  check_call("after_step");
  if (phase_ == Phase::in_iteration && iters_at_step_ > progress_.iter) {
    fail<Error>(
        "{}: after_step: iteration {} already had its step; call after_iter() between two steps "
        "(one {} per optimizer)",
        name_, progress_.iter + 1, name_);
  }
  enter_iter("after_step", /*seen=*/false);
  iters_at_step_ = progress_.iter + 1;
  ++progress_.optimizer_steps;
}

void RunLoop::after_iter(const Scalars& outputs) {
  check_call("after_iter");
  enter_iter("after_iter", /*seen=*/false);
  for (const auto& [name, value] : outputs) logged_[name] = value;
  warn_of_loss(outputs);
  struct End {  // a hook that throws ends the iteration too
    RunLoop& loop;
    ~End() {
      loop.phase_ = Phase::in_epoch;
      ++loop.batch_;
      ++loop.progress_.iter;
    }
  } end{*this};
  phase_ = Phase::after_iteration;
  runner_.hooks().call([&](Hook& hook) { hook.after_train_iter(runner_, batch_, outputs); });
}

/// A loss is at hand anyway, and the first sign that weights, and with them averages, go bad.
void RunLoop::warn_of_loss(const Scalars& outputs) {
  if (warned_of_loss_) return;
  std::string bad;
  for (const auto& [name, value] : outputs) {
    if (std::isfinite(value) || name.find("loss") == std::string::npos) continue;
    bad += fmt::format("{}{} is {}", bad.empty() ? "" : ", ", name,
                       std::isnan(value) ? "nan" : fmt::format("{}", value));  // not -nan
  }
  if (bad.empty()) return;
  warned_of_loss_ = true;
  const std::optional<double> rate = runner_.learning_rate();
  log_warning(
      "iteration {}: {}{}; a step that follows from it spoils the weights, and an average of them "
      "for good: lower the learning rate or clip the gradients; skip_nonfinite: true keeps an "
      "average at its last finite values",
      progress_.iter + 1, bad, rate ? fmt::format(" (lr {:.4g})", *rate) : "");
}

void RunLoop::after_epoch() {
  check_call("after_epoch");
  check_iteration_ended("after_epoch");
  if (phase_ != Phase::in_epoch) {
    fail<Error>(
        "{}: after_epoch: no iteration was reported in epoch {}; call after_iter() after each "
        "batch",
        name_, progress_.epoch + 1);
  }
  struct End {
    RunLoop& loop;
    ~End() {
      loop.phase_ = Phase::between_epochs;
      loop.batch_ = 0;
      if (loop.progress_.by_epoch) ++loop.progress_.epoch;
    }
  } end{*this};
  phase_ = Phase::after_epoch;
  runner_.hooks().call([&](Hook& hook) { hook.after_train_epoch(runner_); });
}

void RunLoop::after_train() {
  check_call("after_train");
  if (phase_ == Phase::ended) fail<Error>("{}: after_train: was already called", name_);
  check_iteration_ended("after_train");
  enter_training("after_train");
  struct End {  // even if a hook throws
    RunLoop& loop;
    ~End() { loop.phase_ = Phase::ended; }
  } end{*this};
  if (!progress_.by_epoch && phase_ == Phase::in_epoch) after_epoch();
  runner_.hooks().call([&](Hook& hook) { hook.after_train(runner_); });
  warn_of_averages();
}

/// Said at the end even if it was said before: the run's result is bad.
void RunLoop::warn_of_averages() const {
  for (const NamedAverage& item : runner_.averages()) {
    const std::string bad = item.average->find_nonfinite();
    if (bad.empty()) continue;
    log_warning(
        "training ended with an average{} that holds a NaN or an infinity ({}); of the "
        "checkpoints, only earlier ones may be of use: polyak inspect FILE counts what is not "
        "finite",
        item.name.empty() ? "" : fmt::format(" '{}'", item.name), bad);
  }
}

void RunLoop::after_run() {
  check_call("after_run");
  runner_.hooks().call([&](Hook& hook) { hook.after_run(runner_); });
}

// ---- evaluations

Scalars RunLoop::evaluate(Hook::Stage stage, const std::function<Scalars()>& measure) {
  EvaluationPass pass(*this, stage, &measure);
  return pass.finish(measure());
}

std::optional<Scalars> RunLoop::measure_again(const std::string& suffix) const {
  if (!again_) return std::nullopt;
  Scalars metrics;
  for (const auto& [name, value] : (*again_)()) metrics[name + suffix] = value;
  return metrics;
}

EvaluationPass::Mark::Mark(RunLoop& loop, const char* call, const std::function<Scalars()>* again)
    : loop_(loop) {
  if (loop.phase_ == RunLoop::Phase::evaluating) loop.check_call(call);
  loop.check_iteration_ended(call);
  if (loop.phase_ == RunLoop::Phase::built) loop.before_run();
  loop.paused_ = loop.phase_;
  loop.phase_ = RunLoop::Phase::evaluating;
  loop.began_unseen_ = false;
  loop.again_ = again;
}

EvaluationPass::Mark::~Mark() {
  loop_.phase_ = loop_.paused_;
  loop_.again_ = nullptr;
}

EvaluationPass::EvaluationPass(RunLoop& loop, Hook::Stage stage,
                               const std::function<Scalars()>* again)
    : mark_(loop, stage == Hook::Stage::val ? "validation" : "test", again),
      scope_(loop.runner_, loop.runner_.hooks(), stage) {}

Scalars EvaluationPass::finish(Scalars metrics) {
  scope_.finish(metrics);
  return metrics;
}

// ---- checkpoints

Value RunLoop::begin_checkpoint(CheckpointParts parts) const {
  const RunPlace done = place();
  runner_.averages().warn_of_nonfinite(
      done.iters);  // to read an average costs less than to write it
  Value checkpoint = polyak::begin_checkpoint(runner_, done.epochs, done.iters, parts.config);
  if (parts.random_state) {
    checkpoint.at("polyak").set("random_state", std::move(*parts.random_state));
  }
  if (parts.optimizer) checkpoint.set("optimizer", std::move(*parts.optimizer));
  if (parts.gradients) {
    checkpoint.at("polyak").set("gradients", gathered_gradients(runner_.model()));
    checkpoint.at("polyak").set("accumulative_counts", progress_.accumulative_counts);
  }
  return checkpoint;
}

void RunLoop::restore(Value& checkpoint, const RestoreParts& parts) {
  if (phase_ != Phase::ready || resuming_) {
    fail<Error>("{}: resume: the run has begun; call it once, before the first iteration", name_);
  }
  const std::optional<GatheredGradients> gradients =
      fit_gradients(runner_.model(), checkpoint, progress_.accumulative_counts);
  const KeptAverages averages(runner_.averages());
  const Progress progress = progress_;
  const Value info = runner_.run_info();
  resuming_ = true;
  try {
    give_to_hooks(runner_, checkpoint);
    take_place(checkpoint, parts.repeat_epoch_end);
    if (parts.load) parts.load();
  } catch (...) {
    resuming_ = false;
    progress_ = progress;
    batch_ = 0;
    runner_.run_info() = info;
    clean_up("restoring the averages", [&] { averages.put_back(); });
    throw;
  }
  load_state_dict(runner_.model(), checkpoint.at("state_dict"));
  iters_at_step_ = progress_.iter - (gradients ? 1 : 0);
  if (!gradients) return;
  for (const auto& [parameter, gradient] : *gradients) parameter.mutable_grad() = gradient;
}

void RunLoop::take_place(const Value& checkpoint, bool repeat_epoch_end) {
  const Value& meta = checkpoint.at("meta");
  progress_.iter = meta.at("iter").as_int();
  progress_.epoch = progress_.by_epoch ? meta.at("epoch").as_int() : 0;
  progress_.optimizer_steps = progress_.steps_in(progress_.iter);
  runner_.run_info() = resumed_run_info(checkpoint);
  const Value* extra = checkpoint.find("polyak");
  if (const Value* steps = extra ? extra->find("optimizer_steps") : nullptr) {
    progress_.optimizer_steps = steps->as_int();
  }
  batch_ = progress_.by_epoch ? 0 : progress_.iter;
  // If the number of batches differs from the previous run's, the position in the epoch is unknown,
  // and the epoch starts over.
  const bool same_length =
      epoch_length_of(checkpoint, progress_.epoch_length) == progress_.epoch_length;
  if (!progress_.by_epoch || !same_length) return;
  const int64_t done = progress_.iter - progress_.epoch * progress_.epoch_length;
  if (done < 0 || done > progress_.epoch_length || progress_.epoch_length == 0) return;
  batch_ = done;
  if (done < progress_.epoch_length || repeat_epoch_end) return;
  ++progress_.epoch;
  batch_ = 0;
}

}  // namespace polyak
