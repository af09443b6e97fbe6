// SPDX-License-Identifier: Apache-2.0
// How a run is built and checked before anything is written.
#include <filesystem>

#include "polyak/checkpoint/file.h"
#include "polyak/config/problems.h"
#include "polyak/core/log.h"
#include "polyak/core/text.h"
#include "polyak/loader/loader.h"
#include "polyak/registry/read_all_options.h"
#include "polyak/registry/registry.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/state_dict.h"
#include "polyak/trainer/model_checks.h"
#include "polyak/trainer/torch_script.h"
#include "polyak/trainer/train_runner.h"

namespace polyak {

namespace fs = std::filesystem;
namespace {

constexpr const char* kOwner = "a training config";

}  // namespace

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
  std::vector<Node> hooks =
      hook_nodes(options_.default_hooks, options_.custom_hooks, progress().by_epoch);
  set_vis_backends(options_.vis_backends, hooks);
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
  if (options_.sync_bn) check_sync_bn(model_, config_.at("sync_bn"));
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
                                              options_.train_dataloader, syncs_batch_norm());
  scale_learning_rate(options_, data_.train->whole_batch_size());
  const Optimization::Context context{&config_, &options_, &catalog_, &progress()};
  optimization_ = std::make_unique<Optimization>(context, model(), start_);
}

// ---- what was built

std::vector<std::string> TrainRunner::summary() {
  std::vector<std::string> lines;
  const Progress& run = progress();
  std::string length =
      run.by_epoch ? fmt::format("{} epochs of {} iterations", run.max_epochs, run.epoch_length)
                   : fmt::format("{} iterations", run.max_iters);
  lines.push_back(fmt::format("run: {}, {} optimizer steps of {} samples", length,
                              run.max_optimizer_steps,
                              data_.train->whole_batch_size() * run.accumulative_counts));
  int64_t weights = 0, parameters = 0, trained = 0, gradients = 0;
  for (const NamedTensor& item : model().tensors()) {
    const auto bytes = static_cast<int64_t>(item.tensor.nbytes());
    weights += bytes;
    if (item.buffer) continue;
    parameters += item.tensor.numel();
    if (!item.tensor.requires_grad()) continue;
    trained += item.tensor.numel();
    gradients += bytes;
  }
  lines.push_back(fmt::format("model: {} parameters, {} of them trained", parameters, trained));
  const std::optional<int64_t> kept = optimization_->tensors_of_state();
  int64_t averages = 0;
  for (const NamedAverage& item : this->averages())
    averages += item.average->coverage().sum().bytes;
  lines.push_back(
      fmt::format("memory: weights {}, gradients {}, optimizer {}, averages {}; what the layers "
                  "compute comes on top",
                  size_text(weights), size_text(gradients),
                  kept ? size_text(gradients * *kept) : "unknown", size_text(averages)));
  lines.emplace_back("hooks, in their order:");
  for (const std::string& line : hooks_.lines()) lines.push_back("  " + line);
  return lines;
}

}  // namespace polyak
