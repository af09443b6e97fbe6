// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/train_runner.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <filesystem>
#include <set>

#include "polyak/checkpoint/file.h"
#include "polyak/core/log.h"
#include "polyak/distributed/gradient_reducer.h"
#include "polyak/distributed/process_group.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/trainer/class_names.h"
#include "polyak/trainer/environment.h"
#include "polyak/trainer/sync_batch_norm.h"

namespace polyak {

namespace fs = std::filesystem;
Scalars TrainRunner::train() {
  if (purpose_ != Purpose::train) fail<Error>("this runner was not built for training");
  struct Unlock {  // another run may use work_dir after this one, even if it throws
    RunLocks& locks;
    ~Unlock() { locks.release(); }
  } unlock{locks_};
  start_run();
  const bool owes_validation = load_checkpoint();
  processes_.share(model().tensors(), "sharing the loaded weights");  // copies of a file may differ
  connect_processes();
  optimization_->wrapper().start(progress().iter, last_iteration());
  loop_.before_train();
  if (progress().iter == 0) validate_if_due();  // val_begin: 0
  randomness_.begin();
  if (owes_validation) validate_if_due();
  progress().by_epoch ? train_epochs() : train_iterations();
  loop_.after_train();
  loop_.after_run();
  return validations_.empty() ? Scalars() : validations_.back().metrics;
}

Scalars TrainRunner::test() {
  if (!data_.test) config_.fail("a test needs test_dataloader and test_evaluator");
  start_run();
  load_checkpoint();
  Scalars metrics = run_evaluation(*data_.test, Hook::Stage::test);
  loop_.after_run();
  return metrics;
}

Scalars TrainRunner::measure() {
  if (!data_.test) config_.fail("a test needs test_dataloader and test_evaluator");
  return evaluate(*data_.test, nullptr);
}

void TrainRunner::start_run() {
  if (loop_.phase() != RunLoop::Phase::built) return;
  processes_.together([this] {
    if (is_main()) make_files();
  });
  log_info("Hooks run in this order:");
  for (const std::string& line : hooks_.lines()) log_info("{}", line);
  loop_.before_run();
}

void TrainRunner::make_files() {
  std::error_code error;
  fs::create_directories(fs::path(work_dir_) / timestamp_, error);
  if (error) fail<Error>("{} cannot be created: {}", work_dir_, error.message());
  if (training()) {
    for (const std::string& folder : out_dirs(config_)) fs::create_directories(folder, error);
    lock_folders();
  }
  // A test keeps the config of the run whose folder it uses.
  const fs::path folder = training() ? fs::path(work_dir_) : fs::path(work_dir_) / timestamp_;
  replace_text_file((folder / (name_ + ".yaml")).string(), config_.dump());
}

/// @return whether a validation may be missing in the resumed run
bool TrainRunner::load_checkpoint() {
  if (!start_.checkpoint) return false;
  Value checkpoint = std::move(*start_.checkpoint);
  start_.checkpoint.reset();
  name_file_in_errors(start_.file, [&] {
    if (resuming()) {
      RestoreParts parts;
      parts.load = [&] {
        optimization_->restore(checkpoint);
        randomness_.restore(checkpoint, processes_.rank(), processes_.size());
      };
      loop_.restore(checkpoint, parts);
    } else {
      give_to_hooks(*this, checkpoint);
      load_state_dict(model(), checkpoint.at("state_dict"));
    }
    if (training()) model_->after_load(resuming());
  });
  log_start(start_, checkpoint, progress());
  if (resuming()) log_environment_differences(checkpoint, environment());
  return resuming() && may_lack_validation(checkpoint, progress(), is_validated(*this));
}

/// Where training ends. A resumed run may have epochs of another length than before, so that this
/// is not max_iters.
int64_t TrainRunner::last_iteration() const {
  const Progress& now = progress();
  if (!now.by_epoch) return now.max_iters;
  return now.iter + (now.max_epochs - now.epoch) * now.epoch_length - loop_.place().batch;
}

/// Makes the gradients of several processes equal before each step, and BatchNorm's statistics in
/// each forward pass.
void TrainRunner::connect_processes() {
  if (processes_.size() == 1) return;
  // Gradients travel while the backward pass goes on, so that layers need a group of their own.
  if (syncs_batch_norm()) sync_batch_norm(*module_, duplicate(*processes_.group()));
  std::vector<NamedTensor> parameters;
  std::set<const void*> known;
  for (const NamedTensor& item : model().tensors()) {
    if (!item.buffer && known.insert(item.tensor.unsafeGetTensorImpl()).second) {
      parameters.push_back(item);
    }
  }
  GradientReducer::Options options;
  options.find_unused_parameters = options_.find_unused_parameters;
  optimization_->wrapper().set_reducer(
      make_gradient_reducer(processes_.group(), parameters, options));
}

void TrainRunner::train_epochs() {
  const int64_t length = progress().epoch_length;
  while (progress().epoch < progress().max_epochs && !stop_requested()) {
    loop_.before_epoch();
    // After a checkpoint from inside an epoch, the rest of that epoch comes first.
    while (loop_.place().batch < length && !stop_requested()) {
      train_batch(progress().epoch, loop_.place().batch);
    }
    // Stopped inside the epoch, which is not finished. After a signal, the resumed run ends the
    // epoch, where the hooks are not interrupted.
    if (loop_.place().batch < length || interrupted()) break;
    loop_.after_epoch();
    validate_if_due();
  }
}

void TrainRunner::train_iterations() {
  const int64_t length = progress().epoch_length;
  loop_.before_epoch();
  while (progress().iter < progress().max_iters && !stop_requested()) {
    train_batch(progress().iter / length, progress().iter % length);
    validate_if_due();
  }
}

/// @param index the index of the batch in an epoch
void TrainRunner::train_batch(int64_t epoch, int64_t index) {
  if (!module_->is_training()) module_->train();
  const Batch batch = data_.train->batch(epoch, index);
  loop_.before_iter();

  OptimWrapper& optimizer = optimization_->wrapper();
  optimizer.before_forward();
  if (options_.broadcast_buffers) share_buffers();
  const bool has_samples = batch.labels.size(0) > 0;
  Algorithm::Losses losses;
  if (has_samples || syncs_batch_norm()) {
    const AutocastScope autocast(optimizer.autocast_dtype(), device_);
    losses = model_->loss(on_device(batch));
  }
  at::Tensor total;
  Scalars outputs;
  for (const auto& [name, value] : losses) {
    outputs[name] = value.item<double>();
    if (name.find("loss") == std::string::npos) continue;
    total = total.defined() ? total + value : value;
  }
  if (has_samples) {
    if (!total.defined()) fail<Error>("the model returned no loss: no name contains 'loss'");
    outputs["loss"] = total.item<double>();
  } else {
    outputs.clear();
    if (total.defined()) total = total.nan_to_num();  // the mean of nothing, whose weight is 0
  }
  // The mean over the samples of all processes, from the mean over them of the means of each.
  const double share = static_cast<double>(data_.train->samples_of(index)) /
                       static_cast<double>(data_.train->all_samples_of(index));
  const double weight = share * static_cast<double>(processes_.size());
  if (total.defined() && weight != 1) total = total * weight;
  const bool stepped = optimizer.update(total);
  if (stepped) loop_.after_step();
  if (processes_.size() > 1) outputs = agree(std::move(outputs), share, stepped);
  if (const auto norm = optimizer.grad_norm()) log("grad_norm", *norm);
  loop_.after_iter(outputs);
}

/// After an optimizer step, all processes have the same losses, and end together.
Scalars TrainRunner::agree(Scalars outputs, double share, bool stepped) {
  if (!stepped) {  // which communicates nothing
    processes_.note(outputs);
    return outputs;
  }
  agreed_ = processes_.agree({std::move(outputs), stop_.requested(), stop_.signal()}, share);
  return agreed_.losses;
}

void TrainRunner::share_buffers() {
  std::vector<NamedTensor> buffers;
  for (const NamedTensor& item : model().tensors()) {
    if (item.buffer) buffers.push_back(item);
  }
  processes_.share(buffers, "sharing buffers");
}

/// One process alone must not stop: the others would wait for it.
bool TrainRunner::stop_requested() const {
  return processes_.size() == 1 ? stop_.requested() : agreed_.stop || agreed_.signal != 0;
}

int TrainRunner::stop_signal() const {
  return processes_.size() == 1 ? stop_.signal() : agreed_.signal;
}

Batch TrainRunner::on_device(const Batch& batch) const {
  Batch moved{{}, batch.labels.to(device_)};
  for (const at::Tensor& view : batch.views) moved.views.push_back(view.to(device_));
  return moved;
}

std::string TrainRunner::last_checkpoint() const {
  return named_checkpoint(work_dir_, out_dirs(config_));
}

// ---- evaluations

void TrainRunner::validate_if_due() {
  if (!data_.val || interrupted()) return;
  const Progress& now = progress();
  const int64_t done = now.by_epoch ? now.epoch : now.iter;
  const int64_t max = now.by_epoch ? now.max_epochs : now.max_iters;
  if (!loop_options_.validates_after(done, max)) return;
  try {
    validations_.push_back({now.by_epoch, done, run_evaluation(*data_.val, Hook::Stage::val)});
    // A hook may have asked for a stop, and a signal may have come.
    if (processes_.size() > 1) {
      agreed_ = processes_.agree({{}, stop_.requested(), stop_.signal()}, 0);
    }
  } catch (const Interrupted&) {
    log_info("the validation was interrupted; the resumed run repeats it");
  }
}

Scalars TrainRunner::run_evaluation(const Evaluation& evaluation, Hook::Stage stage) {
  const std::function<Scalars()> again = [&] { return evaluate(evaluation, nullptr); };
  EvaluationPass pass(loop_, stage, &again);
  return pass.finish(evaluate(evaluation, &pass.scope()));
}

void TrainRunner::check_interrupted() const {
  if (interrupted()) fail<Interrupted>("interrupted by {}", signal_name(stop_signal()));
}

/// In eval mode. Logged numbers are cleared before each batch.
Scalars TrainRunner::evaluate(const Evaluation& evaluation, EvaluationScope* scope) {
  module_->eval();
  std::function<void(const at::Tensor&)> add_up;
  if (processes_.size() > 1) {
    share_buffers();  // statistics of layers differ by process, and the files have those of the
                      // first
    add_up = [this](const at::Tensor& numbers) {
      processes_.add_up(numbers, "putting metrics together");
    };
  }
  return evaluation.run(
      *model_, device_, scope,
      [this] {
        check_interrupted();
        loop_.logged().clear();
      },
      add_up);
}

Scalars TrainRunner::validate(const std::string& suffix) {
  if (std::optional<Scalars> metrics = loop_.measure_again(suffix)) return *metrics;
  fail<Error>("no validation or test is running");
}

std::vector<std::string> TrainRunner::metric_names() const {
  const std::optional<Evaluation>& evaluation = training() ? data_.val : data_.test;
  return evaluation ? evaluation->metric_names() : std::vector<std::string>();
}

// ---- for hooks

std::optional<double> TrainRunner::learning_rate() const {
  return optimization_ ? std::optional<double>(optimization_->lr()) : std::nullopt;
}

bool TrainRunner::reset_optimizer_state() {
  if (optimization_) optimization_->wrapper().optimizer().clear_state();
  return optimization_ != nullptr;
}

Schedules* TrainRunner::schedules() {
  return optimization_.get();
}

void TrainRunner::run_training_forward(int64_t num_samples) {
  const torch::NoGradGuard no_grad;
  const RandomStateGuard cpu_state(c10::kCPU);
  const RandomStateGuard device_state(device_);
  const MeanOfBuffers mean(processes_, model());
  int64_t done = 0;
  const int64_t batches = data_.train->size() - (leave_out_last_batch_ ? 1 : 0);
  for (int64_t index = 0; done < num_samples; index = (index + 1) % batches) {
    check_interrupted();
    // The batches at the end of an epoch are the same as right after it.
    const Batch batch = data_.train->batch(loop_.place().epochs, index);
    if (batch.labels.size(0) > 0 || syncs_batch_norm()) {
      model_->predict(batch.images().to(device_));
    }
    done += data_.train->all_samples_of(index);
  }
  mean.take();
}

bool TrainRunner::can_resume_from(const Value& checkpoint) const {
  return is_resumable(checkpoint);
}

Value TrainRunner::environment() const {
  return environment_of(device_, data_.train ? data_.train->dataset().size() : 0,
                        processes_.size());
}

Value TrainRunner::make_checkpoint(bool with_optimizer, bool with_schedules) {
  CheckpointParts parts;
  parts.config = config_.dump();
  parts.random_state = randomness_.state();
  // Before the run, a hook only looks at what a checkpoint would have, perhaps in this process
  // only.
  const bool shares = processes_.size() > 1 && loop_.phase() != RunLoop::Phase::built;
  if (shares) processes_.add_states(*parts.random_state);
  if (with_optimizer && optimization_) {
    parts.optimizer = optimization_->wrapper().state_dict();
    parts.gradients = optimization_->wrapper().between_steps();
  }
  Value checkpoint = loop_.begin_checkpoint(std::move(parts));
  if (Value* gradients = checkpoint.at("polyak").find("gradients"); gradients && shares) {
    std::vector<NamedTensor> parameters;
    for (const NamedTensor& item : model().tensors()) {
      if (!item.buffer) parameters.push_back(item);
    }
    processes_.share_gradients(parameters, *gradients);
  }
  Value& meta = checkpoint.at("meta");
  meta.set("seed", static_cast<int64_t>(randomness_.seed()));
  meta.set("experiment_name", name_ + "_" + timestamp_);
  if (!data_.classes.empty()) meta.set("dataset_meta", make_dataset_meta(data_.classes));
  meta.set("environment", environment());
  if (with_schedules && optimization_ && optimization_->has_schedules()) {
    checkpoint.set("param_schedulers", optimization_->schedules_state());
  }
  return checkpoint;
}

}  // namespace polyak
