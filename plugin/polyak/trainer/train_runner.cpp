// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/train_runner.h"

#include <ATen/ATen.h>
#include <torch/utils.h>

#include <filesystem>
#include <set>

#include "polyak/checkpoint/file.h"
#include "polyak/config/problems.h"
#include "polyak/core/log.h"
#include "polyak/distributed/gradient_reducer.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/read_all_options.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/trainer/class_names.h"
#include "polyak/trainer/environment.h"
#include "polyak/trainer/model_checks.h"
#include "polyak/trainer/torch_script.h"

namespace polyak {

namespace fs = std::filesystem;
namespace {

constexpr const char* kOwner = "a training config";

}  // namespace

// ---- built and checked before anything is written

TrainRunner::TrainRunner(Node config, const Catalog& catalog, Purpose purpose)
    : config_(std::move(config)), catalog_(catalog), purpose_(purpose) {
  read_config();
  make_plugin_paths_absolute(config_);
  if (purpose_ != Purpose::check) {
    processes_ = RunProcesses(config_, options_);
    // How a run was started is no part of what it is: its files serve one process too.
    if (config_.find("launcher")) config_.set("launcher", "none");
  }
  processes_.together([this] { build(); });
  compare_processes();
  if (purpose_ != Purpose::check) return;
  hooks_.call([&](Hook& hook) {
    for (const std::string& line : hook.describe_run(*this)) {
      log_info("{}: {}", hook.name(), line);
    }
  });
}

TrainRunner::~TrainRunner() = default;

void TrainRunner::build() {
  set_up_work_dir();
  start_ = find_start(config_, options_, work_dir_, training());
  name_file_in_errors(start_.file, [&] {
    set_up_process();
    set_up_data();
    if (training()) set_up_length();
    set_up_model();
    if (training()) set_up_training();
  });
  const std::vector<Node> hooks =
      hook_nodes(options_.default_hooks, options_.custom_hooks, progress().by_epoch);
  Problems problems;
  for (const Node& node : hooks) {
    problems.attempt([&] { hooks_.add(node, catalog_.of<Hook>(), {&catalog_}); });
  }
  problems.throw_all();
  const bool has_schedules = optimization_ && optimization_->has_schedules();
  if (has_schedules && !has_hook(hooks, "ParamSchedulerHook")) {
    log_warning(
        "{}there is no ParamSchedulerHook to step it (see default_hooks.param_scheduler); unless "
        "another hook does, the learning rate keeps the schedule's initial value",
        config_.at("param_scheduler").prefix());
  }
  hooks_.check_run(*this);
}

/// What must be the same in all processes; then they get the same weights.
void TrainRunner::compare_processes() {
  if (processes_.size() == 1) return;
  std::string tensors;
  for (const NamedTensor& item : model().tensors()) {
    tensors += fmt::format("{} {} {}\n", item.name, shape_text(item.tensor),
                           at::toString(item.tensor.scalar_type()));
  }
  const auto samples = [](const DataLoader* data) {
    return data ? fmt::format("{} samples", data->dataset().size()) : std::string("none");
  };
  processes_.check_same(
      {{"model", tensors},
       {"training data", samples(data_.train.get())},
       {"validation data", samples(data_.val ? data_.val->loader.get() : nullptr)},
       {"test data", samples(data_.test ? data_.test->loader.get() : nullptr)},
       {"checkpoint to start from",
        start_.checkpoint && resuming()
            ? fmt::format("{} at iteration {}", start_.file,
                          start_.checkpoint->at("meta").at("iter").as_int())
            : start_.file}});
  for (const auto* evaluation : {&data_.val, &data_.test}) {
    if (!*evaluation) continue;
    for (const auto& metric : (*evaluation)->metrics) {
      if (metric->sums().defined()) continue;
      config_.fail(
          "one of its metrics cannot be put together over several processes: its class overrides "
          "neither sums() nor set_sums(); evaluate in one process");
    }
  }
  processes_.share(model().tensors(), "sharing the first weights");
}

/// Everything that the config says wrong in itself, at once. A test does not judge what it does not
/// use.
void TrainRunner::read_config() {
  if (training()) return read_all_options(config_, options_, kOwner, catalog_);
  TrainConfig used;
  read_all_options(
      config_.without({"train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler"}), used,
      kOwner, catalog_);
  read_options(config_, options_, kOwner);
}

void TrainRunner::set_up_work_dir() {
  name_ = fs::path(config_.place().file).stem().string();
  if (name_.empty()) name_ = "config";
  work_dir_ = options_.work_dir.value_or((fs::path("work_dirs") / name_).string());
  if (work_dir_.empty()) config_.at("work_dir").fail("must not be empty");
  if (is_main()) check_writable(config_, work_dir_);
  config_.set("work_dir", work_dir_);
  // Before looking for the checkpoint, since a run that is ending may still write it.
  if (purpose_ == Purpose::train && options_.resume) lock_folders();
  timestamp_ = new_timestamp(work_dir_);
}

void TrainRunner::lock_folders() {
  if (!is_main()) return;
  std::vector<std::string> folders = out_dirs(config_);
  folders.push_back(work_dir_);
  locks_.add(folders, config_.at("work_dir"));
}

void TrainRunner::set_up_process() {
  set_up_threads(options_.env_cfg);
  std::optional<int64_t> resumed_seed;
  if (resuming()) {
    const Value* seed = start_.checkpoint->at("meta").find("seed");
    if (seed && !seed->is_none()) resumed_seed = seed->as_int();
  }
  if (!resumed_seed && processes_.drawn_seed()) {
    RandomnessOptions given;
    read_options(options_.randomness, given, "randomness");
    if (!given.seed) {
      if (options_.randomness.is_null()) options_.randomness = Node::mapping({});
      options_.randomness.set("seed", *processes_.drawn_seed());
      log_info("randomness.seed is not set; drew {}", *processes_.drawn_seed());
    }
  }
  const int64_t seed = set_up_randomness(options_.randomness, resumed_seed);
  Node resolved = options_.randomness;
  resolved.set("seed", seed);
  config_.set("randomness", std::move(resolved));
  if (processes_.size() == 1 || options_.device) device_ = find_device(config_, options_.device);
  if (processes_.size() > 1 && !device_.is_cpu()) {
    config_.at("device").fail("several processes train on CPUs only; set device: cpu");
  }
  RandomnessOptions randomness;
  read_options(options_.randomness, randomness, "randomness");
  randomness_ =
      RunRandomness(static_cast<uint64_t>(seed), device_,
                    randomness.diff_rank_seed ? static_cast<uint64_t>(processes_.rank()) : 0);
}

void TrainRunner::set_up_data() {
  RunData::Context context;
  context.catalog = &catalog_;
  context.seed = randomness_.seed();
  context.training = training();
  context.share = {processes_.rank(), processes_.size()};
  context.start = &start_;
  context.predict = [this](const at::Tensor& images) {
    return model_->predict(images.to(device_));
  };
  data_ = build_run_data(config_, options_, context);
}

/// Before building the model, which may need the length of the run.
void TrainRunner::set_up_length() {
  read_options(options_.train_cfg, loop_options_, "train_cfg");
  OptimWrapperOptions optim;
  read_options(options_.optim_wrapper, optim, "optim_wrapper");
  RunLength length;
  length.by_epoch = loop_options_.counts_epochs();
  length.epoch_length = data_.train->size();
  length.max_epochs = length.by_epoch ? *loop_options_.max_epochs : 1;
  length.max_iters =
      length.by_epoch ? length.max_epochs * length.epoch_length : *loop_options_.max_iters;
  length.accumulative_counts = optim.accumulative_counts;
  length.batch_size = data_.train->whole_batch_size();
  if (!count_from(1).contains(static_cast<double>(length.max_iters))) {
    options_.train_cfg.at("max_epochs")
        .fail(fmt::format("{} epochs of {} batches are {} iterations; a run has at most 2147483647",
                          length.max_epochs, length.epoch_length, length.max_iters));
  }
  loop_.set_length(length);
  if (resuming()) check_place(start_, progress());
}

void TrainRunner::set_up_model() {
  const Dataset& dataset = data_.of_model().dataset();
  at::manual_seed(randomness_.seed());
  model_ = catalog_.of<Algorithm>().build(
      options_.model, {&catalog_, dataset.image_shape(), dataset.num_classes(), device_,
                       &progress(), processes_.group()});
  module_ = as_module(model_);
  if (const auto* script = dynamic_cast<const TorchScript*>(model_.get())) {
    // The resolved config is written to a different folder than the one that `path` is relative to.
    config_.find("model")->set("path", script->file());
  }
  module_->to(device_);
  const auto check = [&](const DataLoader& data, const Node& node) {
    check_forward(model_, data.dataset().image_shape(), device_, node);
  };
  check(data_.of_model(), options_.model);
  if (data_.val) check(*data_.val->loader, options_.val_dataloader);
  if (data_.test && !(data_.val && data_.test->loader == data_.val->loader)) {
    check(*data_.test->loader, options_.test_dataloader);
  }
  if (!start_.checkpoint) return;
  apply_name_rules(start_.checkpoint->at("state_dict"), start_.names);
  fit_checkpoint(*start_.checkpoint, model(), resuming());
  check_fit(model(), start_.checkpoint->at("state_dict"), resuming() || purpose_ == Purpose::test,
            start_.file);
}

void TrainRunner::set_up_training() {
  if (model_->needs_equal_batches() && !data_.train->has_equal_batches()) {
    options_.train_dataloader.fail(
        "this model needs equally many samples in each process; set round_up: true in its sampler, "
        "or drop_last: true");
  }
  leave_out_last_batch_ = check_training_data(model_, *data_.train, device_, progress().max_iters,
                                              options_.train_dataloader);
  scale_learning_rate(options_, data_.train->whole_batch_size());
  const Optimization::Context context{&config_, &options_, &catalog_, &progress()};
  optimization_ = std::make_unique<Optimization>(context, model(), start_);
}

// ---- the run

Scalars TrainRunner::train() {
  if (purpose_ != Purpose::train) fail<Error>("this runner was not built for training");
  struct Unlock {  // another run may use work_dir after this one, even if it throws
    RunLocks& locks;
    ~Unlock() { locks.release(); }
  } unlock{locks_};
  start_run();
  const bool owes_validation = load_checkpoint();
  processes_.share(model().tensors(), "sharing the loaded weights");  // copies of a file may differ
  prepare_gradients();
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

/// Makes the gradients of several processes equal before each step.
void TrainRunner::prepare_gradients() {
  if (processes_.size() == 1) return;
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
  const Algorithm::Losses losses =
      has_samples ? model_->loss(on_device(batch)) : Algorithm::Losses();
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
  }
  // The mean over the samples of all processes, from the mean over them of the means of each.
  const double share = static_cast<double>(data_.train->samples_of(index)) /
                       static_cast<double>(data_.train->all_samples_of(index));
  const double weight = share * static_cast<double>(processes_.size());
  if (has_samples && weight != 1) total = total * weight;
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
    if (batch.labels.size(0) > 0) model_->predict(batch.images().to(device_));
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
    parts.optimizer = optimization_->wrapper().optimizer().state_dict();
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
