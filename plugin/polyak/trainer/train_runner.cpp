// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/train_runner.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "polyak/checkpoint/file.h"
#include "polyak/core/log.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/trainer/class_names.h"
#include "polyak/trainer/model_checks.h"
#include "polyak/trainer/process.h"
#include "polyak/trainer/resume.h"
#include "polyak/trainer/resumed_schedules.h"
#include "polyak/trainer/torch_script.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;

/// The items of a list; a single value counts as a list of one, null as an empty one.
std::vector<Node> as_list(const Node& node) {
  if (node.is_null()) return {};
  return node.is_sequence() ? node.items() : std::vector<Node>{node};
}

}  // namespace

TrainRunner::TrainRunner(Node config, const Catalog& catalog, Purpose purpose)
    : config_(std::move(config)), catalog_(catalog), purpose_(purpose) {
  read_options(config_, options_, "a training config");
  make_plugin_paths_absolute(config_);
  set_up_work_dir();
  read_checkpoint();
  name_file_in_errors(checkpoint_file_, [&] {
    set_up_process();
    set_up_data();
    if (training()) set_up_lengths();
    set_up_model();
    if (training()) set_up_training();
  });
  const std::vector<Node> hooks =
      hook_nodes(options_.default_hooks, options_.custom_hooks, progress_.by_epoch);
  for (const Node& node : hooks) hooks_.add(node, catalog_.of<Hook>(), {&catalog_});
  if (!schedulers_.empty() && !has_hook(hooks, "ParamSchedulerHook")) {
    log_warning(
        "{}no ParamSchedulerHook is there to step it (see default_hooks.param_scheduler); unless "
        "another hook does, the learning rate stays as the schedule sets it at first",
        config_.at("param_scheduler").prefix());
  }
  hooks_.call([&](Hook& hook) { hook.check_run(*this); });
}

TrainRunner::~TrainRunner() = default;

void TrainRunner::set_up_work_dir() {
  name_ = fs::path(config_.place().file).stem().string();
  if (name_.empty()) name_ = "config";
  work_dir_ = options_.work_dir.value_or((fs::path("work_dirs") / name_).string());
  if (work_dir_.empty()) config_.at("work_dir").fail("must not be empty");
  check_writable(config_, work_dir_);
  config_.set("work_dir", work_dir_);
  // Before the checkpoint is looked for, which a run that is ending may still write.
  if (purpose_ == Purpose::train && options_.resume) lock_folders();
  timestamp_ = new_timestamp(work_dir_);
}

void TrainRunner::lock_folders() {
  std::vector<std::string> folders = out_dirs(config_);
  folders.push_back(work_dir_);
  locks_.add(folders, config_.at("work_dir"));
}

void TrainRunner::read_checkpoint() {
  const bool resume = options_.resume && training();
  checkpoint_file_ = options_.load_from.value_or("");
  if (resume && checkpoint_file_.empty()) {
    checkpoint_file_ = find_last_checkpoint(work_dir_, out_dirs(config_));
    if (checkpoint_file_.empty()) {
      log_info("resume: {} holds no checkpoint yet; training starts from scratch", work_dir_);
    }
  }
  if (checkpoint_file_.empty()) return;
  checkpoint_ = polyak::read_checkpoint(checkpoint_file_);
  resuming_ = resume;
  if (!resuming_) return;
  if (can_resume_from(*checkpoint_)) return;
  fail<CheckpointError>(
      "{}: holds no '{}', so a run cannot go on from it; load_from without resume takes its "
      "weights",
      checkpoint_file_, checkpoint_->contains("meta") ? "optimizer" : "meta");
}

bool TrainRunner::can_resume_from(const Value& checkpoint) const {
  return checkpoint.contains("meta") && checkpoint.contains("optimizer");
}

std::string TrainRunner::last_checkpoint() const {
  return named_checkpoint(work_dir_, out_dirs(config_));
}

void TrainRunner::stop_on_signals() {
  if (!signals_) signals_.emplace();
}

void TrainRunner::set_up_process() {
  set_up_threads(options_.env_cfg);
  std::optional<int64_t> resumed_seed;
  if (resuming_) {
    const Value* seed = checkpoint_->at("meta").find("seed");
    if (seed && !seed->is_none()) resumed_seed = seed->as_int();
  }
  const int64_t seed = set_up_randomness(options_.randomness, resumed_seed);
  seed_ = static_cast<uint64_t>(seed);
  Node resolved = options_.randomness;
  resolved.set("seed", seed);
  config_.set("randomness", std::move(resolved));
  device_ = find_device(config_, options_.device);
}

Evaluation TrainRunner::make_evaluation(const Node& loader, const Node& evaluator, const Node& loop,
                                        const char* stage) {
  EvaluationLoopOptions loop_options;
  read_options(loop, loop_options, fmt::format("{}_cfg", stage));
  if (evaluator.is_null()) {
    loader.fail(fmt::format("needs {0}_evaluator beside it, such as {{type: Accuracy}}", stage));
  }
  Evaluation evaluation;
  evaluation.loader = std::make_shared<DataLoader>(loader, catalog_, /*training=*/false, seed_);
  number_classes(*evaluation.loader);
  const Metric::Context context{
      evaluation.loader->dataset().num_classes(), &catalog_, seed_,
      [this](const at::Tensor& images) { return model_->predict(images.to(device_)); },
      evaluation.loader->dataset().classes()};
  for (const Node& node : as_list(evaluator)) {
    evaluation.metrics.push_back(catalog_.of<Metric>().build(node, context));
    if (evaluation.metrics.back()->needs_labels() &&
        evaluation.loader->dataset().num_labelled() == 0) {
      node.fail(fmt::format(
          "measures by labels, and `labelled` of {}_dataloader's dataset keeps none", stage));
    }
  }
  return evaluation;
}

/// By the classes that the model learns or has learned, so that a label means the same class in
/// every set.
void TrainRunner::number_classes(DataLoader& loader) {
  const std::vector<std::string> own = loader.dataset().classes();
  if (own.empty()) return;
  if (purpose_ == Purpose::test && classes_.empty()) {
    if (checkpoint_ && !named_otherwise(*checkpoint_, own)) {
      classes_ = classes_of_checkpoint(*checkpoint_);
    }
    if (classes_.empty()) classes_ = find_training_classes();
    if (classes_.empty()) {
      log_warning(
          "neither the checkpoint nor the training data list these classes, so labels are numbered "
          "in their own order: {}",
          name_list(own));
      return;
    }
  }
  if (!classes_.empty()) loader.number_classes_by(classes_);
}

/// For a test of a checkpoint that names no classes: those of the config's training data, if they
/// are there.
std::vector<std::string> TrainRunner::find_training_classes() const {
  const Node* dataset = options_.train_dataloader.find("dataset");
  if (!dataset) return {};
  try {
    return classes_to_learn(*catalog_.of<Dataset>().build(*dataset, {&catalog_}));
  } catch (const Error&) {
    return {};
  }
}

void TrainRunner::set_up_data() {
  if (training()) {
    for (const char* key : {"train_dataloader", "train_cfg", "optim_wrapper"}) {
      const Node* node = config_.find(key);
      if (!node || node->is_null())
        config_.fail(fmt::format("'{}' is missing; training needs it", key));
    }
    train_loader_ =
        std::make_shared<DataLoader>(options_.train_dataloader, catalog_, /*training=*/true, seed_);
    classes_ = classes_to_learn(train_loader_->dataset());
    if (resuming_) check_same_classes(*checkpoint_, checkpoint_file_, classes_);
  }
  const bool has_val = !options_.val_dataloader.is_null();
  const bool has_test = !options_.test_dataloader.is_null();
  if (!has_val) {
    for (const char* key : {"val_cfg", "val_evaluator"}) {
      const Node* node = config_.find(key);
      if (node && !node->is_null()) node->fail("has no effect without val_dataloader");
    }
  }
  const bool test_as_val = !has_test && options_.test_evaluator.is_null();
  if (has_val && (training() || test_as_val)) {
    val_ =
        make_evaluation(options_.val_dataloader, options_.val_evaluator, options_.val_cfg, "val");
  }
  const Node& test_loader = has_test ? options_.test_dataloader : options_.val_dataloader;
  if (test_as_val) {
    test_ = val_;
  } else if (!test_loader.is_null()) {
    const Node& evaluator =
        options_.test_evaluator.is_null() ? options_.val_evaluator : options_.test_evaluator;
    test_ = make_evaluation(test_loader, evaluator, options_.test_cfg, "test");
  }
  if (purpose_ == Purpose::test && !test_) {
    config_.fail(
        "a test needs test_dataloader and test_evaluator, or val_dataloader and val_evaluator");
  }
}

/// Before the model, which may need to know how long it will be trained.
void TrainRunner::set_up_lengths() {
  read_options(options_.train_cfg, loop_, "train_cfg");
  OptimWrapperOptions optim;
  read_options(options_.optim_wrapper, optim, "optim_wrapper");
  progress_.by_epoch = loop_.counts_epochs();
  progress_.epoch_length = train_loader_->size();
  progress_.max_epochs = progress_.by_epoch ? *loop_.max_epochs : 1;
  progress_.max_iters =
      progress_.by_epoch ? *loop_.max_epochs * progress_.epoch_length : *loop_.max_iters;
  if (!count_from(1).contains(static_cast<double>(progress_.max_iters))) {
    options_.train_cfg.at("max_epochs")
        .fail(fmt::format("{} epochs of {} batches are {} iterations; a run has at most 2147483647",
                          progress_.max_epochs, progress_.epoch_length, progress_.max_iters));
  }
  progress_.optimizer_steps = 0;
  progress_.accumulative_counts = optim.accumulative_counts;
  progress_.max_optimizer_steps = progress_.steps_in(progress_.max_iters);
  if (resuming_) check_place(*checkpoint_);
}

void TrainRunner::check_place(const Value& checkpoint) const {
  const char* unit = progress_.by_epoch ? "epoch" : "iter";
  const int64_t done = checkpoint.at("meta").at(unit).as_int();
  const int64_t end = progress_.by_epoch ? progress_.max_epochs : progress_.max_iters;
  if (done <= end) return;
  fail<CheckpointError>("{}: stands at {} {}, and this run ends at {}; raise train_cfg.max_{}s",
                        checkpoint_file_, unit, done, end, unit);
}

void TrainRunner::set_up_model() {
  DataLoader& loader = train_loader_ ? *train_loader_ : *test_->loader;
  at::manual_seed(seed_);
  model_ = catalog_.of<Algorithm>().build(
      options_.model, {&catalog_, loader.dataset().image_shape(), loader.dataset().num_classes(),
                       device_, &progress_});
  module_ = as_module(model_);
  if (const auto* script = dynamic_cast<const TorchScript*>(model_.get())) {
    // The resolved config is written into another folder than the one that `path` is seen from.
    config_.find("model")->set("path", script->file());
  }
  module_->to(device_);
  const auto check = [&](const DataLoader& data, const Node& node) {
    check_forward(model_, data.dataset().image_shape(), device_, node);
  };
  check(loader, options_.model);
  if (val_) check(*val_->loader, options_.val_dataloader);
  if (test_ && !(val_ && test_->loader == val_->loader)) {
    check(*test_->loader, options_.test_dataloader);
  }
  if (!checkpoint_) return;
  fit_checkpoint(*checkpoint_, model(), resuming_);
  check_fit(model(), checkpoint_->at("state_dict"), resuming_ || purpose_ == Purpose::test,
            checkpoint_file_);
}

/// BatchNorm takes no batch of one value: better said now than after an epoch.
void TrainRunner::check_last_batch() {
  if (train_loader_->last_batch_size() != 1) return;
  const auto failure_of = [&](int64_t samples) {
    return training_failure(*module_, train_loader_->dataset().image_shape(), device_, samples);
  };
  const auto failure = failure_of(1);
  if (!failure || failure_of(2)) return;  // the size is not what fails
  if (progress_.max_iters < train_loader_->size()) {
    leave_out_last_batch_ = true;
    return;
  }
  const bool only_one = train_loader_->batch_size() == 1;
  options_.train_dataloader.fail(
      fmt::format("{} one sample, which the model cannot train on: {}; {}",
                  only_one ? "each batch has" : "the last batch of an epoch has", *failure,
                  only_one                     ? "set batch_size: 2 or more"
                  : train_loader_->size() == 1 ? "give it more samples"
                                               : "set drop_last: true, or another batch_size"));
}

void TrainRunner::set_up_training() {
  const int64_t views = train_loader_->dataset().num_views();
  if (views != model_->num_views()) {
    options_.train_dataloader.fail(
        fmt::format("its pipeline gives {} view(s) of an image, the model learns from {}; {}",
                    views, model_->num_views(),
                    model_->num_views() == 1 ? "leave MultiView out" : "MultiView makes several"));
  }
  if (train_loader_->dataset().lacks_labels() && !model_->learns_without_labels()) {
    options_.train_dataloader.fail(
        "its dataset has samples without a label (`labelled`), and the model learns from labels; "
        "MeanTeacher learns without");
  }
  check_last_batch();
  std::vector<NamedTensor> parameters;
  std::set<const void*> known;  // a tensor under two names must not be stepped twice
  for (const NamedTensor& item : model().tensors()) {
    if (!item.buffer && known.insert(item.tensor.unsafeGetTensorImpl()).second) {
      parameters.push_back(item);
    }
  }
  if (std::none_of(parameters.begin(), parameters.end(),
                   [](const NamedTensor& item) { return item.tensor.requires_grad(); })) {
    options_.model.fail("no parameter of it wants a gradient, so there is nothing to train");
  }
  optim_ = std::make_unique<OptimWrapper>(options_.optim_wrapper, catalog_, parameters);
  if (resuming_) {
    take_over_optimizer(optim_->optimizer(), *checkpoint_, config_, resumes_with_config(),
                        checkpoint_file_);
  }

  const ParamScheduler::Context context{&optim_->optimizer(), progress_.epoch_length,
                                        progress_.max_epochs, progress_.max_iters};
  for (const Node& node : as_list(options_.param_scheduler)) {
    schedulers_.push_back(catalog_.of<ParamScheduler>().build(node, context));
    for (const ParamScheduler::Doubt& doubt : schedulers_.back()->doubts()) {
      const Node* key = node.find(doubt.key);
      log_warning("{}{}", key ? key->prefix() : node.prefix(), doubt.text);
    }
    if (schedulers_.back()->by_epoch() && !progress_.by_epoch) {
      node.fail(
          "counts epochs, but the training loop counts iterations, so it would never step; set "
          "by_epoch: false");
    }
  }
  if (!resuming_ || resumes_with_config()) return;
  if (Value* saved = checkpoint_->find("param_schedulers")) {
    *saved = Value::list(match_schedules(schedulers_, *saved));
  }
}

std::optional<double> TrainRunner::learning_rate() const {
  return optim_ ? std::optional<double>(optim_->optimizer().lr()) : std::nullopt;
}

Scalars TrainRunner::train() {
  if (purpose_ != Purpose::train) fail<Error>("this runner was not built for training");
  struct Unlock {  // another run may go on once this one ended, whatever ended it
    RunLocks& locks;
    ~Unlock() { locks.release(); }
  } unlock{locks_};
  start_run();
  load_checkpoint();
  optim_->start(progress_.iter, progress_.max_iters);
  hooks_.call([&](Hook& hook) { hook.before_train(*this); });
  if (progress_.iter == 0) validate_if_due();  // val_begin: 0
  restore_random_state();
  if (validation_due_) validate_if_due();
  progress_.by_epoch ? train_epochs() : train_iterations();
  hooks_.call([&](Hook& hook) { hook.after_train(*this); });
  hooks_.call([&](Hook& hook) { hook.after_run(*this); });
  return validations_.empty() ? Scalars() : validations_.back().metrics;
}

/// Right before the first iteration, so that copies of the model and hooks that draw numbers leave
/// training as it is without them.
void TrainRunner::restore_random_state() {
  if (cpu_random_state_.defined()) {
    set_random_state(c10::kCPU, cpu_random_state_);
    if (device_random_state_.defined()) set_random_state(device_, device_random_state_);
    cpu_random_state_ = device_random_state_ = at::Tensor();
  } else {
    at::manual_seed(seed_);
  }
}

Scalars TrainRunner::test() {
  if (!test_) config_.fail("a test needs test_dataloader and test_evaluator");
  start_run();
  load_checkpoint();
  Scalars metrics = run_evaluation(*test_, Hook::Stage::test);
  hooks_.call([&](Hook& hook) { hook.after_run(*this); });
  return metrics;
}

void TrainRunner::start_run() {
  if (started_) return;
  started_ = true;
  std::error_code error;
  fs::create_directories(fs::path(work_dir_) / timestamp_, error);
  if (error) fail<Error>("{} cannot be made: {}", work_dir_, error.message());
  if (training()) {
    for (const std::string& folder : out_dirs(config_)) fs::create_directories(folder, error);
    lock_folders();
  }
  // A test leaves the config of the run whose folder it uses.
  const fs::path folder = training() ? fs::path(work_dir_) : fs::path(work_dir_) / timestamp_;
  replace_text_file((folder / (name_ + ".yaml")).string(), config_.dump());
  log_info("Hooks run in this order:");
  for (const std::string& line : hooks_.lines()) log_info("{}", line);
  hooks_.call([&](Hook& hook) { hook.before_run(*this); });
}

void TrainRunner::load_checkpoint() {
  if (!checkpoint_) return;
  Value checkpoint = std::move(*checkpoint_);
  checkpoint_.reset();
  name_file_in_errors(checkpoint_file_, [&] {
    load_into_run(*this, checkpoint);
    if (resuming_) restore_progress(checkpoint);
    if (training()) model_->after_load(resuming_);
  });
  if (!resuming_) {
    const std::vector<std::string> others = other_weights(checkpoint);
    if (others.empty()) {
      log_info("loaded {}", checkpoint_file_);
    } else {
      log_info("loaded {}: its state_dict is taken, {} is not", checkpoint_file_,
               list_names(others));
    }
    return;
  }
  log_info("going on from {}: epoch {}, iteration {}", checkpoint_file_, progress_.epoch,
           progress_.iter);
  if (progress_.by_epoch ? progress_.epoch == progress_.max_epochs
                         : progress_.iter == progress_.max_iters) {
    log_info("this run is finished: {} of {} {}s are done; raise train_cfg.max_{}s to train on",
             progress_.by_epoch ? progress_.epoch : progress_.iter,
             progress_.by_epoch ? progress_.max_epochs : progress_.max_iters,
             progress_.by_epoch ? "epoch" : "iter", progress_.by_epoch ? "epoch" : "iter");
  }
}

void TrainRunner::restore_progress(const Value& checkpoint) {
  const Value& meta = checkpoint.at("meta");
  progress_.iter = meta.at("iter").as_int();
  progress_.epoch = progress_.by_epoch ? meta.at("epoch").as_int() : 0;
  progress_.optimizer_steps = progress_.steps_in(progress_.iter);
  log_resumed_differences(optim_->optimizer(), checkpoint, config_, resumes_with_config());
  optim_->optimizer().load_state_dict(checkpoint.at("optimizer"), resumes_with_config()
                                                                      ? Optimizer::Numbers::own
                                                                      : Optimizer::Numbers::saved);
  if (resumes_with_config()) {
    replay_schedules(checkpoint);
  } else if (const Value* saved = checkpoint.find("param_schedulers")) {
    const std::vector<Value>& states = saved->items();  // matched before
    for (size_t i = 0; i < states.size(); ++i) schedulers_[i]->load_state_dict(states[i]);
  } else if (!schedulers_.empty()) {
    log_warning(
        "the checkpoint holds no parameter schedulers: they start over from its learning rate");
  }
  run_info() = resumed_run_info(checkpoint);
  const Value* extra = checkpoint.find("polyak");
  const Value* saved_length = extra ? extra->find("epoch_length") : nullptr;
  const int64_t length = saved_length ? saved_length->as_int() : progress_.epoch_length;
  inside_epoch_ = length == progress_.epoch_length;
  // A run may have been ended between a save and the validation that follows it.
  const Value* validated = run_info().find("validated");
  const char* unit = progress_.by_epoch ? "epoch" : "iter";
  const int64_t done = progress_.by_epoch ? progress_.epoch : progress_.iter;
  validation_due_ = progress_.iter > 0 &&
                    (!progress_.by_epoch || progress_.iter == progress_.epoch * length) &&
                    !(validated && validated->at(unit).as_int() == done);
  if (!extra) return;
  restore_gradients(*extra);
  if (const Value* steps = extra->find("optimizer_steps"))
    progress_.optimizer_steps = steps->as_int();
  if (const Value* random = extra->find("random_state")) {
    cpu_random_state_ = random->at("cpu").as_tensor();
    const Value* on_device = random->find("device");
    if (on_device && !device_.is_cpu()) device_random_state_ = on_device->as_tensor();
  }
}

void TrainRunner::restore_gradients(const Value& extra) {
  const Value* gradients = extra.find("gradients");
  if (!gradients) return;
  const int64_t counts = extra.at("accumulative_counts").as_int();
  if (counts == optim_->accumulative_counts()) {
    load_gradients(model(), *gradients);
  } else {
    log_warning(
        "the checkpoint holds gradients gathered for steps of {} iterations, and "
        "accumulative_counts is {} now; they are dropped",
        counts, optim_->accumulative_counts());
  }
}

/// Steps the config's schedules as often as they would have been by now, so that rates are those of
/// a run that had this config all along.
void TrainRunner::replay_schedules(const Value& checkpoint) {
  const Value* extra = checkpoint.find("polyak");
  const Value* saved_length = extra ? extra->find("epoch_length") : nullptr;
  const int64_t length =
      std::max<int64_t>(saved_length ? saved_length->as_int() : progress_.epoch_length, 1);
  int64_t epochs = 0;
  for (int64_t iter = 1; iter <= progress_.iter; ++iter) {
    step_schedulers(/*by_epoch=*/false);
    if (iter % length != 0 || epochs == progress_.epoch) continue;
    step_schedulers(/*by_epoch=*/true);
    ++epochs;
  }
  for (; epochs < progress_.epoch; ++epochs) step_schedulers(/*by_epoch=*/true);
}

void TrainRunner::train_epochs() {
  // A checkpoint from inside an epoch: the rest of that epoch comes first. With another number of
  // batches than in the run before, the place is unknown, and the epoch starts over.
  int64_t index = inside_epoch_ ? progress_.iter - progress_.epoch * progress_.epoch_length : 0;
  if (index < 0 || index > progress_.epoch_length) index = 0;
  while (progress_.epoch < progress_.max_epochs && !stop_requested()) {
    hooks_.call([&](Hook& hook) { hook.before_train_epoch(*this); });
    for (; index < progress_.epoch_length && !stop_requested(); ++index) {
      train_batch(index, progress_.epoch, index);
    }
    // Stopped inside the epoch, which is not finished. A signal leaves its end to the run that goes
    // on, where nothing breaks off what hooks do there.
    if (index < progress_.epoch_length || interrupted()) break;
    index = 0;
    epochs_in_hooks_ = 1;
    hooks_.call([&](Hook& hook) { hook.after_train_epoch(*this); });
    epochs_in_hooks_ = 0;
    ++progress_.epoch;
    validate_if_due();
  }
}

void TrainRunner::train_iterations() {
  hooks_.call([&](Hook& hook) { hook.before_train_epoch(*this); });
  while (progress_.iter < progress_.max_iters && !stop_requested()) {
    train_batch(progress_.iter, progress_.iter / progress_.epoch_length,
                progress_.iter % progress_.epoch_length);
    validate_if_due();
  }
  epochs_in_hooks_ = 1;
  hooks_.call([&](Hook& hook) { hook.after_train_epoch(*this); });
  epochs_in_hooks_ = 0;
}

void TrainRunner::train_batch(int64_t batch_index, int64_t epoch, int64_t index) {
  logged_.clear();
  if (!module_->is_training()) module_->train();
  const Batch batch = train_loader_->batch(epoch, index);
  hooks_.call([&](Hook& hook) { hook.before_train_iter(*this, batch_index); });

  const Algorithm::Losses losses = model_->loss(on_device(batch));
  at::Tensor total;
  Scalars outputs;
  for (const auto& [name, value] : losses) {
    outputs[name] = value.item<double>();
    if (name.find("loss") == std::string::npos) continue;
    total = total.defined() ? total + value : value;
  }
  if (!total.defined()) fail<Error>("the model gave no loss: no name contains 'loss'");
  outputs["loss"] = total.item<double>();
  if (optim_->update(total)) ++progress_.optimizer_steps;
  if (const auto norm = optim_->grad_norm()) logged_["grad_norm"] = *norm;
  for (const auto& [name, value] : outputs) logged_[name] = value;

  iters_in_hooks_ = 1;
  hooks_.call([&](Hook& hook) { hook.after_train_iter(*this, batch_index, outputs); });
  iters_in_hooks_ = 0;
  ++progress_.iter;
}

Batch TrainRunner::on_device(const Batch& batch) const {
  Batch moved{{}, batch.labels.to(device_)};
  for (const at::Tensor& view : batch.views) moved.views.push_back(view.to(device_));
  return moved;
}

void TrainRunner::validate_if_due() {
  if (!val_ || interrupted()) return;
  const int64_t done = progress_.by_epoch ? progress_.epoch : progress_.iter;
  const int64_t max = progress_.by_epoch ? progress_.max_epochs : progress_.max_iters;
  if (!loop_.validates_after(done, max)) return;
  try {
    validations_.push_back({progress_.by_epoch, done, run_evaluation(*val_, Hook::Stage::val)});
  } catch (const Interrupted&) {
    log_info("the validation is broken off; the run that goes on repeats it");
  }
}

Scalars TrainRunner::run_evaluation(Evaluation& evaluation, Hook::Stage stage) {
  struct Running {
    Evaluation*& now;
    ~Running() { now = nullptr; }
  } running{running_};
  running_ = &evaluation;
  EvaluationScope scope(*this, hooks_, stage);
  Scalars metrics = evaluate(evaluation, &scope);
  scope.finish(metrics);
  return metrics;
}

void TrainRunner::check_interrupted() const {
  if (interrupted()) fail<Interrupted>("broken off by {}", signal_name(stop_signal()));
}

/// In eval mode; every batch begins without logged numbers.
Scalars TrainRunner::evaluate(const Evaluation& evaluation, EvaluationScope* scope) {
  module_->eval();
  return evaluation.run(*model_, device_, scope, [this] {
    check_interrupted();
    logged_.clear();
  });
}

Scalars TrainRunner::validate(const std::string& suffix) {
  if (!running_) fail<Error>("no validation or test is running");
  Scalars metrics;
  for (const auto& [name, value] : evaluate(*running_, nullptr)) metrics[name + suffix] = value;
  return metrics;
}

std::vector<std::string> TrainRunner::metric_names() const {
  const std::optional<Evaluation>& evaluation = training() ? val_ : test_;
  return evaluation ? evaluation->metric_names() : std::vector<std::string>();
}

void TrainRunner::run_training_forward(int64_t num_samples) {
  if (!train_loader_) fail<Error>("this runner has no training data: it was built for a test");
  const torch::NoGradGuard no_grad;
  const RandomStateGuard cpu_state(c10::kCPU);
  const RandomStateGuard device_state(device_);
  int64_t done = 0;
  const int64_t batches = train_loader_->size() - (leave_out_last_batch_ ? 1 : 0);
  for (int64_t index = 0; done < num_samples; index = (index + 1) % batches) {
    check_interrupted();
    // The same batches at the end of an epoch as right after it.
    const Batch batch = train_loader_->batch(progress_.epoch + epochs_in_hooks_, index);
    model_->predict(batch.images().to(device_));
    done += batch.labels.size(0);
  }
}

Value TrainRunner::make_checkpoint(bool with_optimizer, bool with_schedulers) {
  Value checkpoint = begin_checkpoint(*this, progress_.epoch + epochs_in_hooks_,
                                      progress_.iter + iters_in_hooks_, config_.dump());
  checkpoint.at("meta").set("seed", static_cast<int64_t>(seed_));
  checkpoint.at("meta").set("experiment_name", name_ + "_" + timestamp_);
  if (!classes_.empty()) checkpoint.at("meta").set("dataset_meta", make_dataset_meta(classes_));
  Value random = Value::dict();
  // Before the first iteration of a run that goes on, the state that it will go on with.
  random.set("cpu", cpu_random_state_.defined() ? cpu_random_state_ : random_state(c10::kCPU));
  if (!device_.is_cpu()) {
    random.set("device",
               device_random_state_.defined() ? device_random_state_ : random_state(device_));
  }
  checkpoint.at("polyak").set("random_state", std::move(random));
  if (with_optimizer && optim_) {
    checkpoint.set("optimizer", optim_->optimizer().state_dict());
    if (optim_->between_steps()) {
      checkpoint.at("polyak").set("gradients", gathered_gradients(model()));
      checkpoint.at("polyak").set("accumulative_counts", optim_->accumulative_counts());
    }
  }
  if (with_schedulers && !schedulers_.empty()) {
    std::vector<Value> states;
    for (const auto& scheduler : schedulers_) states.push_back(scheduler->state_dict());
    checkpoint.set("param_schedulers", Value::list(std::move(states)));
  }
  return checkpoint;
}

void TrainRunner::step_schedulers(bool by_epoch) {
  for (const auto& scheduler : schedulers_) {
    if (scheduler->by_epoch() == by_epoch) scheduler->step();
  }
}

}  // namespace polyak
