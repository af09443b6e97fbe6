// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/post_hoc_ema_hook.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "polyak/averaging/average_state.h"
#include "polyak/core/log.h"
#include "polyak/rules/power_function_ema.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/known_model.h"
#include "polyak/runtime/post_hoc_snapshot.h"
#include "polyak/runtime/run_folder.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/saved_average.h"

namespace polyak {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHookName = "PostHocEMAHook";
constexpr const char* kReason = "its averages are of type";
constexpr const char* kRunKey = "post_hoc_run";  // in the run_info
constexpr int64_t kMostSnapshots = 4000;         // that PostHocSolver takes

/// What lengths are relative to in a run; an update is an optimizer step.
RunLengths lengths_of(const Progress& progress) {
  const auto accumulated = static_cast<double>(std::max<int64_t>(progress.accumulative_counts, 1));
  return {progress.max_optimizer_steps > 0 ? progress.max_optimizer_steps : progress.max_iters,
          static_cast<double>(progress.epoch_length) / accumulated,
          progress.batch_size * progress.accumulative_counts};
}

}  // namespace

void PostHocEMAHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("sigma_rels", &sigma_rels_,
              "Widths of the averages that are kept, as parts of the run so far; two are enough.");
  visitor.number_or_text<length_text, parse_length>(
      "every", &every_,
      "How often snapshots are written: optimizer steps (20), epochs (2ep), a part of the run (1%) "
      "or samples (100000samples).");
  visitor.choice("dtype", &dtype_, {"float32", "float16", "bfloat16"},
                 "Of floating-point tensors in snapshots.");
  visitor.key("out_dir", &out_dir_, "Folder for snapshots; null: post_hoc in the work_dir.");
  visitor.choice("on_save_error", &on_save_error_, {"stop", "continue"},
                 "What follows if a snapshot cannot be written, for example on a full disk; "
                 "continue: a warning.");
  Rest rest{"Other keys of PowerFunctionEMA; update_buffers is true by default."};
  rest.kind = AveragedModel::kKind;
  rest.type = PowerFunctionEMAOptions::kName;
  rest.reason = kReason;
  rest.refused = {"sigma_rel", "gamma", "interval", "write_back", "shard", "verify"};
  rest.complete = [](Node& block) { block.set("sigma_rel", kMaxSigmaRel); };  // of sigma_rels
  visitor.rest(&average_, rest);
}

void PostHocEMAHookOptions::validate() const {
  check_length(every_, "every", 1);
  if (sigma_rels_.size() < 2) {
    fail_option("sigma_rels",
                "has {} width{}, but averages of other widths are made from at least two",
                sigma_rels_.size(), sigma_rels_.size() == 1 ? "" : "s");
  }
  for (const double width : sigma_rels_) {
    if (!(width > 0 && width <= kMaxSigmaRel)) {
      fail_option("sigma_rels", "{} is not a width; each must be above 0 and at most {:.4g}", width,
                  kMaxSigmaRel);
    }
    if (std::count(sigma_rels_.begin(), sigma_rels_.end(), width) > 1) {
      fail_option("sigma_rels", "has {} twice; the widths must differ", width);
    }
  }
  for (const char* key : {"sigma_rel", "gamma"}) {
    if (average_.find(key)) fail_option(key, "the widths are those of sigma_rels; remove it");
  }
  if (average_.find("interval")) {
    fail_option("interval", "does not go with snapshots, whose averages have each step; remove it");
  }
  for (const char* key : {"shard", "verify"}) {
    if (average_.find(key)) {
      fail_option(key,
                  "snapshots are made of whole averages, which each process has; remove the key");
    }
  }
  if (average_.find("write_back")) {
    fail_option("write_back", "would change the training that is recorded here; use an EMAHook");
  }
  if (out_dir_ && out_dir_->empty()) fail_option("out_dir", "must not be empty");
}

Node PostHocEMAHookOptions::average_node(double sigma_rel) const {
  Node node = average_;
  node.set("type", PowerFunctionEMAOptions::kName);
  node.set("sigma_rel", sigma_rel);
  // The statistics of BatchNorm can be combined only as averages of the same profile.
  if (!node.find("update_buffers")) node.set("update_buffers", true);
  return node;
}

int64_t PostHocEMAHookOptions::steps_between(const Progress& progress) const {
  Length every = every_;
  if (!resolve_length(every, lengths_of(progress), /*least=*/1)) {
    fail<ConfigError>("PostHocEMAHook: every: {}", why_unresolved(every, "every"));
  }
  return static_cast<int64_t>(every.value);
}

PostHocEMAHook::PostHocEMAHook(PostHocEMAHookOptions options,
                               const Registry<AveragedModel>& averages)
    : options_(std::move(options)) {
  check_options(options_, kHookName);
  for (const double width : options_.sigma_rels()) {
    const Node node = options_.average_node(width);
    kept_.push_back({width, fmt::format("post_hoc_{}", width), node,
                     averages.prepare_shared(node, kHookName, options_, kReason), nullptr});
  }
}

std::string PostHocEMAHook::name() const {
  return kHookName;
}

std::string PostHocEMAHook::folder(const Runner& runner) const {
  if (options_.out_dir()) return *options_.out_dir();
  return runner.work_dir().empty() ? "" : (fs::path(runner.work_dir()) / "post_hoc").string();
}

void PostHocEMAHook::check_run(Runner& runner) {
  runner.hooks().call([&](const Hook& hook) {
    if (dynamic_cast<const PostHocEMAHook*>(&hook) && &hook != this) {
      fail<ConfigError>("there are two PostHocEMAHooks; list all widths in one's sigma_rels");
    }
  });
  if (!runner.training()) return;
  if (folder(runner).empty()) {
    fail<ConfigError>("PostHocEMAHook: there is no folder to write to; set work_dir or out_dir");
  }
  const std::string reason =
      is_main(runner.process_group().get()) ? unwritable_reason(folder(runner)) : "";
  if (!reason.empty()) {
    fail<ConfigError>("PostHocEMAHook: {} cannot be written: {}", folder(runner), reason);
  }
  const Progress& progress = runner.progress();
  const int64_t between = options_.steps_between(progress);
  const int64_t length = lengths_of(progress).run;
  const int64_t most = kMostSnapshots / static_cast<int64_t>(kept_.size());
  if (length / between > most) {
    fail<ConfigError>(
        "PostHocEMAHook: every: is {} optimizer step(s), which are {} snapshots of each average; "
        "at most {} can be combined, so set at least {}",
        between, length / between, most, (length + most - 1) / most);
  }
}

std::vector<std::string> PostHocEMAHook::describe_run(Runner& runner) {
  return build_average(kept_.front(), runner)->coverage().lines();
}

std::shared_ptr<AveragedModel> PostHocEMAHook::build_average(const Kept& kept,
                                                             Runner& runner) const {
  AveragedModel::Context context;
  context.model = runner.model();
  context.lengths = lengths_of(runner.progress());
  try {
    return kept.make(context);
  } catch (const OptionError& error) {  // of a pattern that matches nothing, for example
    fail_at(kept.node, error, kHookName);
  } catch (const ConfigError& error) {  // from the constructor: the keys were already read
    kept.node.fail(error.what());
  }
}

void PostHocEMAHook::before_run(Runner& runner) {
  at_once_ = false;
  if (!runner.training()) return;  // nothing here is measured
  const ModelRef model = runner.model();
  const bool known = model_ && model_->is(model);
  for (Kept& kept : kept_) {
    if (known) {
      kept.average->rebind(model);
    } else {
      if (kept.average) runner.averages().remove(*kept.average);
      kept.average = build_average(kept, runner);
    }
    NamedAverage item{kept.name, kept.average};
    item.is_measured = false;
    runner.averages().add(item);
  }
  if (!known) model_ = std::make_shared<const KnownModel>(model);
}

void PostHocEMAHook::before_train(Runner& runner) {
  check_run(runner);  // for hosts that do not call it
  at_once_ = false;
  steps_seen_ = runner.progress().optimizer_steps;
  steps_between_ = options_.steps_between(runner.progress());
  written_at_ = 0;
  Value& info = runner.run_info();
  if (!info.contains(kRunKey)) {
    info.set(kRunKey, runner.timestamp().empty() ? "unnamed" : runner.timestamp());
    const std::vector<std::string> old = post_hoc_files(folder(runner));
    if (!old.empty()) {
      log_warning(
          "PostHocEMAHook: {} holds {} snapshot(s) of an earlier run, which cannot be combined "
          "with those of this one; remove those that this run does not replace",
          folder(runner), old.size());
    }
  }
}

void PostHocEMAHook::before_train_epoch(Runner& runner) {
  runner.averages().flush();
  for (const Kept& kept : kept_) kept.average->rebind(runner.model());
}

void PostHocEMAHook::after_train_iter(Runner& runner, int64_t /*batch*/,
                                      const Scalars& /*outputs*/) {
  const int64_t steps = runner.progress().optimizer_steps;
  const bool stepped = steps < 0 || steps > steps_seen_;
  steps_seen_ = steps;
  AverageSet& averages = runner.averages();
  for (const Kept& kept : kept_) {
    // A host that calls hooks directly skipped the hook that this one waited for.
    at_once_ = at_once_ || averages.is_due(*kept.average);
    averages.post(*kept.average, stepped);
  }
  const int64_t next = kept_.front().average->steps() + 1;
  const bool writes = stepped && next % steps_between_ == 0;
  if (writes || at_once_ || !runner.hooks().next_posts_averages(*this)) averages.flush();
  if (writes) write_snapshots(runner);
}

void PostHocEMAHook::after_train(Runner& runner) {
  // A run that a signal stopped goes on, and writes its last snapshots at its end.
  if (!runner.interrupted()) write_snapshots(runner);
}

/// The tensors that are not averaged, so that the newest snapshot has their values.
std::vector<std::string> PostHocEMAHook::copied_tensors() const {
  std::vector<std::string> names;
  for (const AverageCoverage::Tensor& tensor : kept_.front().average->coverage().tensors) {
    if (tensor.mode != TensorMode::average) names.push_back(tensor.name);
  }
  return names;
}

void PostHocEMAHook::write_snapshots(Runner& runner) {
  runner.averages().flush();
  const int64_t step = kept_.front().average->steps();
  if (step == 0 || step == written_at_) return;
  if (!is_main(runner.process_group().get())) {
    written_at_ = step;
    return;
  }
  const std::vector<std::string> copied = copied_tensors();
  std::error_code error;
  fs::create_directories(folder(runner), error);  // the write below reports a failure
  try {
    for (const Kept& kept : kept_) {
      PostHocSnapshot snapshot;
      snapshot.path = post_hoc_path(folder(runner), step, kept.sigma_rel);
      snapshot.gamma = power_function_gamma(kept.sigma_rel);
      snapshot.sigma_rel = kept.sigma_rel;
      snapshot.step = step;
      snapshot.dtype = options_.dtype();
      snapshot.run = runner.run_info().at(kRunKey).as_string();
      snapshot.copied = copied;
      write_post_hoc_snapshot(*kept.average, snapshot);
    }
    written_at_ = step;
  } catch (const CheckpointError& problem) {
    if (options_.on_save_error() == "stop") throw;
    log_warning(
        "PostHocEMAHook: {}; training goes on without this snapshot (on_save_error: continue)",
        problem.what());
  }
}

void PostHocEMAHook::before_save_checkpoint(Runner& runner, Value& checkpoint) {
  if (!model_) return;
  runner.averages().flush();
  for (const Kept& kept : kept_) {
    AveragedModel& average = *kept.average;
    if (!average.is_swapped()) average.rebind(runner.model());  // includes added parameters
    AverageState state = average.state_dict();
    if (state.steps == 0) {  // a copy of the model until the first update
      state.values = runner.model().tensors();
      state.exact.clear();
      state.compensation.clear();
    }
    save_average(checkpoint, kept.name, state, "optimizer_steps");
  }
}

void PostHocEMAHook::after_load_checkpoint(Runner& runner, Value& checkpoint) {
  if (!model_) return;
  runner.averages().flush();
  for (const Kept& kept : kept_) {
    if (!runner.resuming()) {
      kept.average->reset(runner.model());
      continue;
    }
    if (!checkpoint.contains(average_key(kept.name))) {
      log_warning("PostHocEMAHook: the checkpoint has no '{}'; this average begins here",
                  average_key(kept.name));
      continue;
    }
    const LoadReport report = kept.average->load_state_dict(saved_average(checkpoint, kept.name));
    if (!report.clean()) {
      fail<CheckpointError>("the checkpoint's {} does not fit the model: {}",
                            average_key(kept.name), report.text());
    }
  }
}

}  // namespace polyak
