// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/train_config.h"

#include <algorithm>

#include "polyak/runtime/vis_backend.h"
#include "polyak/trainer/data_loader.h"
#include "polyak/trainer/load_from.h"
#include "polyak/trainer/optim_wrapper.h"

namespace polyak {

void TrainConfig::visit(OptionVisitor& visitor) {
  using Form = Blocks::Form;
  constexpr const char* kLoader = "a dataloader";
  visitor.required_component("model", &model, "model", "The model.");
  visitor.block<DataLoaderOptions>("train_dataloader", &train_dataloader,
                                   "Batches of training data.", Form::one, kLoader);
  visitor.block<TrainLoopOptions>("train_cfg", &train_cfg,
                                  "The training loop: its length and when it validates.");
  visitor.block<OptimWrapperOptions>("optim_wrapper", &optim_wrapper,
                                     "The optimizer, gradient accumulation and gradient clipping.");
  visitor.component("param_scheduler", &param_scheduler, "parameter scheduler",
                    "A schedule of the learning rate, or a list of them.", Form::one_or_list);
  visitor.block<DataLoaderOptions>("val_dataloader", &val_dataloader,
                                   "Batches of validation data; null: no validation.", Form::one,
                                   kLoader);
  visitor.block<EvaluationLoopOptions>("val_cfg", &val_cfg, "The validation loop.");
  visitor.component("val_evaluator", &val_evaluator, "metric", "A metric, or a list of them.",
                    Form::one_or_list);
  visitor.block<DataLoaderOptions>("test_dataloader", &test_dataloader,
                                   "Batches of test data; null: the validation data.", Form::one,
                                   kLoader);
  visitor.block<EvaluationLoopOptions>("test_cfg", &test_cfg, "The test loop.");
  visitor.component("test_evaluator", &test_evaluator, "metric",
                    "A metric, or a list of them; null: val_evaluator.", Form::one_or_list);
  visitor.component("default_hooks", &default_hooks, "hook",
                    "Replaces default hooks by name; null under a name removes that hook.",
                    Form::by_name);
  visitor.component("custom_hooks", &custom_hooks, "hook", "More hooks, a list.", Form::list);
  visitor.component("vis_backends", &vis_backends, VisBackend::kKind,
                    "Where the numbers of the run go beside its log, a list; null: LoggerHook's.",
                    Form::list);
  visitor.block<LoadFromOptions>(
      "load_from", &load_from,
      "A checkpoint to start from: a path, or {path, key, prefix: {strip, map}, exclude}.",
      Form::one_or_text);
  visitor.key("resume", &resume, "Resume from load_from, or from the last checkpoint in work_dir.");
  visitor.choice("resume_options", &resume_options, {"checkpoint", "config"},
                 "Whose settings a resumed optimizer uses (lr, momentum, weight decay, ...).");
  visitor.key("work_dir", &work_dir,
              "The folder for all output; null: ./work_dirs/<name of the config>.");
  visitor.block<RandomnessOptions>("randomness", &randomness, "Seed and determinism.");
  visitor.key("device", &device, "cpu, cuda or cuda:N; null: cuda if available.");
  visitor.block<EnvOptions>("env_cfg", &env_cfg, "Settings of the process: num_threads, dist_cfg.");
  visitor.choice("launcher", &launcher, {"none", "pytorch", "mpi", "slurm"},
                 "What starts the processes that train together; none: there is one.");
  visitor.key("find_unused_parameters", &find_unused_parameters,
              "With several processes: an iteration may leave parameters without a gradient.");
  visitor.key("broadcast_buffers", &broadcast_buffers,
              "With several processes: each iteration begins with the buffers of process 0.");
  visitor.key("sync_bn", &sync_bn,
              "With several processes: BatchNorm's statistics in training are those of all.");
  visitor.block<AutoScaleLrOptions>(
      "auto_scale_lr", &auto_scale_lr,
      "Scales the learning rate by the samples of an iteration: {enable, base_batch_size}.");
  visitor.key("plugins", &plugins,
              "Paths or names of shared libraries with more hooks and models.");
}

void TrainLoopOptions::visit(OptionVisitor& visitor) {
  visitor.key("type", &type,
              "EpochBasedTrainLoop or IterBasedTrainLoop; null: determined by by_epoch.");
  visitor.key("by_epoch", &by_epoch, "Whether the loop counts epochs; null: yes.");
  visitor.key("max_epochs", &max_epochs, "Epochs of the run, for a loop that counts them.",
              count_from(1));
  visitor.key("max_iters", &max_iters, "Iterations of the run, for a loop that counts them.",
              count_from(1));
  visitor.key("val_interval", &val_interval,
              "Epochs or iterations between validations; null: 1 epoch, 1000 iterations.",
              count_from(1));
  visitor.key("val_begin", &val_begin,
              "First epoch or iteration after which a validation may run; 0: also validate before "
              "training.",
              count_from(0));
  visitor.any("dynamic_intervals", &dynamic_intervals, "list of pairs of integers or null",
              "Changes of val_interval: a list of [epoch or iteration, interval from there on].");
}

void TrainLoopOptions::validate() const {
  if (type && *type != "EpochBasedTrainLoop" && *type != "IterBasedTrainLoop") {
    fail_option("type", "must be EpochBasedTrainLoop or IterBasedTrainLoop, got '{}'", *type);
  }
  if (type && by_epoch && *by_epoch != (*type == "EpochBasedTrainLoop")) {
    fail_option("by_epoch", "{} contradicts type: {}", *by_epoch, *type);
  }
  const char* wanted = counts_epochs() ? "max_epochs" : "max_iters";
  const char* other = counts_epochs() ? "max_iters" : "max_epochs";
  if (!(counts_epochs() ? max_epochs : max_iters)) fail<ConfigError>("{} is missing", wanted);
  if (counts_epochs() ? max_iters : max_epochs) {
    fail_option(other, "this loop counts {}; remove {} or set by_epoch: {}",
                counts_epochs() ? "epochs" : "iterations", other, !counts_epochs());
  }
  if (dynamic_intervals.is_null()) return;
  const auto is_count = [](const Node& node, int64_t least) {
    return count_from(static_cast<double>(least)).contains(static_cast<double>(node.as_int()));
  };
  for (const Node& pair : dynamic_intervals.items()) {
    const std::vector<Node>& numbers = pair.items();
    if (numbers.size() != 2 || !is_count(numbers[0], 0) || !is_count(numbers[1], 1)) {
      pair.fail(
          "must be [epoch or iteration, interval], at least 0 and 1, and at most 2147483647 each");
    }
  }
}

bool TrainLoopOptions::counts_epochs() const {
  return type ? *type == "EpochBasedTrainLoop" : by_epoch.value_or(true);
}

int64_t TrainLoopOptions::interval_at(int64_t done) const {
  int64_t interval = val_interval.value_or(counts_epochs() ? 1 : 1000);
  if (dynamic_intervals.is_null()) return interval;
  for (const Node& pair : dynamic_intervals.items()) {
    // One early, like MMEngine: a milestone is compared with the next unit.
    if (done + 1 >= pair.items()[0].as_int()) interval = pair.items()[1].as_int();
  }
  return interval;
}

bool TrainLoopOptions::validates_after(int64_t done, int64_t max) const {
  return done >= val_begin && (done % interval_at(done) == 0 || done == max);
}

void EvaluationLoopOptions::visit(OptionVisitor& visitor) {
  visitor.choice("type", &type, {"ValLoop", "TestLoop"}, "The kind of loop.");
}

void RandomnessOptions::visit(OptionVisitor& visitor) {
  visitor.key("seed", &seed,
              "Seed of weights, order and transforms; null: drawn at random and logged.",
              at_least(0));
  visitor.key("deterministic", &deterministic,
              "Use only deterministic algorithms; an operation without one is an error.");
  visitor.key("diff_rank_seed", &diff_rank_seed,
              "With several processes: each one draws other random numbers, such as dropout's.");
}

void EnvOptions::visit(OptionVisitor& visitor) {
  visitor.key("num_threads", &num_threads, "Threads per operation; null: all cores.",
              closed_interval(1, 1024));
  visitor.block<DistOptions>("dist_cfg", &dist_cfg,
                             "How processes reach each other: backend, timeout.");
}

void DistOptions::visit(OptionVisitor& visitor) {
  visitor.choice("backend", &backend, {"gloo"}, "What carries the data.");
  visitor.key("timeout", &timeout,
              "Seconds after which a process has ended, with an error, if another does not answer.",
              Bounds{0.0, 1e6, true, false});
}

void AutoScaleLrOptions::visit(OptionVisitor& visitor) {
  visitor.key("enable", &enable, "Whether the rate is scaled.");
  visitor.required("base_batch_size", &base_batch_size,
                   "Samples of an iteration, of all processes, that the config's rate is for.",
                   count_from(1));
}

std::vector<Node> hook_nodes(const Node& default_hooks, const Node& custom_hooks, bool by_epoch) {
  auto of_type = [](const char* type) { return Node::mapping({{"type", type}}); };
  Node checkpoint = of_type("CheckpointHook");
  checkpoint.set("interval", by_epoch ? 1 : -1);  // not one file per iteration
  const std::vector<std::pair<std::string, Node>> defaults = {
      {"runtime_info", of_type("RuntimeInfoHook")},
      {"timer", of_type("IterTimerHook")},
      {"logger", of_type("LoggerHook")},
      {"param_scheduler", of_type("ParamSchedulerHook")},
      {"checkpoint", std::move(checkpoint)},
  };
  std::vector<Node> result;
  std::vector<std::string> names;
  for (const auto& [name, node] : defaults) {
    names.push_back(name);
    const Node* given = default_hooks.find(name);
    if (!given) result.push_back(node);
    if (given && !given->is_null()) result.push_back(*given);
  }
  if (!default_hooks.is_null()) {
    const Node others = default_hooks.without(names);
    for (const auto& [name, node] : others.entries()) {
      if (!node.is_null()) result.push_back(node);
    }
  }
  if (!custom_hooks.is_null()) {
    for (const Node& node : custom_hooks.items()) result.push_back(node);
  }
  return result;
}

namespace {

bool is_of_type(const Node& hook, const std::string& type) {
  const std::string name = hook.at("type").as_string();
  return name.substr(name.rfind('.') + 1) == type;  // such as mmengine.ParamSchedulerHook
}

}  // namespace

void set_vis_backends(const Node& vis_backends, std::vector<Node>& hooks) {
  if (vis_backends.is_null()) return;
  const auto logger = std::find_if(hooks.begin(), hooks.end(),
                                   [](const Node& hook) { return is_of_type(hook, "LoggerHook"); });
  if (logger == hooks.end()) vis_backends.fail("there is no LoggerHook to write to them");
  if (logger->find("vis_backends")) {
    logger->at("vis_backends").fail("is also set at the top of the config; remove one of them");
  }
  logger->set("vis_backends", vis_backends);
}

bool has_hook(const std::vector<Node>& hooks, const std::string& type) {
  return std::any_of(hooks.begin(), hooks.end(),
                     [&](const Node& hook) { return is_of_type(hook, type); });
}

}  // namespace polyak
