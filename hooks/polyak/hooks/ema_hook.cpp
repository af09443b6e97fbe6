// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/ema_hook.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "polyak/averaging/average_state.h"
#include "polyak/core/log.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/known_model.h"
#include "polyak/runtime/resumed_average.h"
#include "polyak/runtime/runner.h"
#include "polyak/runtime/saved_average.h"

namespace polyak {
namespace {

constexpr const char* kName = "EMAHook";

}  // namespace

EMAHook::EMAHook(const EMAHookOptions& options, const Registry<AveragedModel>& averages) {
  check_options(options, kName);
  const std::vector<EMAHookOptions> all = options.of_each_average();
  options_ = all.front();
  average_node_ = options_.average_node();
  make_average_ = averages.prepare_shared(average_node_, kName, options_, "ema_type");
  for (size_t i = 1; i < all.size(); ++i) {
    companions_.push_back(std::make_shared<EMAHook>(all[i], averages));
  }
  if (!is_first() || options_.evaluate_on_ema() || options_.evaluate_on_origin()) return;
  if (!options_.is_of_a_list()) {
    log_warning(
        "EMAHook: evaluate_on_ema and evaluate_on_origin are both false; the raw weights are "
        "evaluated");
  }
  options_.evaluate_on_origin(true);
}

std::string EMAHook::name() const {
  return kName;
}

AveragedModel::Context EMAHook::context_of(Runner& runner) const {
  const Progress& progress = runner.progress();
  AveragedModel::Context context;
  context.model = runner.model();
  const int64_t length = options_.counts_iterations() || progress.max_optimizer_steps <= 0
                             ? progress.max_iters
                             : progress.max_optimizer_steps;
  if (length > 0) context.max_iters = length;
  const int64_t accumulated = options_.counts_iterations() ? 1 : progress.accumulative_counts;
  context.lengths = {length,
                     static_cast<double>(progress.epoch_length) / static_cast<double>(accumulated),
                     progress.batch_size * accumulated};
  if (!runner.training()) {  // no update will need them, but options are checked
    constexpr int64_t kAny = 1'000'000;
    context.max_iters = kAny;
    context.lengths = {kAny, static_cast<double>(kAny), 1};
  }
  return context;
}

std::shared_ptr<AveragedModel> EMAHook::build_average(const AveragedModel::Context& context) const {
  try {
    return make_average_(context);
  } catch (const OptionError& error) {  // of a pattern that matches nothing, for example
    fail_at(average_node_, error, kName);
  } catch (const ConfigError& error) {  // from the constructor: the keys were already read
    average_node_.fail(error.what());
  }
}

void EMAHook::add_average(Runner& runner, int64_t length) {
  const Node* max_iters = average_node_.find("max_iters");
  const bool has_length_of_run = !max_iters || max_iters->is_null();
  runner.averages().add({options_.name(), average_, has_length_of_run, options_.own_file(),
                         updates_of(runner.progress(), length)});
}

void EMAHook::before_run(Runner& runner) {
  at_once_ = false;
  const ModelRef model = runner.model();
  const AveragedModel::Context context = context_of(runner);
  if (average_ && model_->is(model)) {  // train() then test(): the average continues
    add_average(runner, context.lengths.run);
    average_->rebind(model);
    return;
  }
  std::shared_ptr<AveragedModel> average = build_average(context);
  if (average_) runner.averages().remove(*average_);
  average->set_process_group(runner.process_group(), runner.has_same_buffers());
  average_ = std::move(average);
  model_ = std::make_shared<const KnownModel>(model);
  // A momentum is what it says.
  if (runner.training() && !is_described_ &&
      (average_node_.find("decay") || average_node_.find("half_life"))) {
    const std::string horizon = text_of_horizon(*average_, context);
    if (!horizon.empty()) log_info("EMAHook: {}", horizon);
  }
  add_average(runner, context.lengths.run);
  const int64_t updates = updates_of(runner.progress(), context.lengths.run);
  if (runner.training() && updates > 0 && average_->begins_after() >= updates) {
    average_node_.fail(fmt::format(
        "the average starts after {} updates, but the run makes {} of them; it would never start",
        average_->begins_after(), updates));
  }
}

/// What the average's numbers mean in this run, for the log; empty for rules without a momentum.
std::string EMAHook::text_of_horizon(const AveragedModel& average,
                                     const AveragedModel::Context& context) const {
  const Node options = average.rule_options();
  const Node* const momentum = options.is_mapping() ? options.find("momentum") : nullptr;
  if (!momentum || !momentum->is_number() || momentum->as_double() <= 0) return {};
  const double m = momentum->as_double();
  const auto interval = static_cast<double>(options.at("interval").as_int());
  const Node* const per_interval = options.find("per_interval");
  const Node* const base_batch_size = options.find("base_batch_size");
  double scale = per_interval && per_interval->as_bool() ? interval : 1;
  if (base_batch_size && base_batch_size->is_int() && context.lengths.batch_size > 0) {
    scale *= static_cast<double>(context.lengths.batch_size) /
             static_cast<double>(base_batch_size->as_int());
  }
  const double decay_rate = -scale * std::log1p(-m) / interval;  // of an update
  const double updates = interval / -std::expm1(scale * std::log1p(-m));
  std::string text =
      fmt::format("{}{}: momentum {:.6g} = decay {:.6g} = half_life {:.6g}; horizon {:.4g} updates",
                  average.rule_name(), is_first() ? "" : fmt::format(" '{}'", options_.name()), m,
                  1 - m, M_LN2 / decay_rate, updates);
  if (context.lengths.epoch > 0) {
    text += fmt::format(" = {:.3g} epochs", updates / context.lengths.epoch);
  }
  return text;
}

void EMAHook::check_run(Runner& runner) {
  bool comes_later = false;  // than this one, which is told; the earlier one is right
  runner.hooks().call([&](Hook& hook) {
    const auto* other = dynamic_cast<const EMAHook*>(&hook);
    comes_later = comes_later || other == this;
    if (other && !comes_later && other->options_.name() == options_.name()) {
      fail<ConfigError>(
          "two EMAHooks {}; give all EMAHooks but one a unique 'name'",
          is_first() ? "have no name" : fmt::format("share the name '{}'", options_.name()));
    }
  });
  if (!runner.training()) return;
  const Progress& progress = runner.progress();
  const Node* const base_batch_size = average_node_.find("base_batch_size");
  if (base_batch_size && !base_batch_size->is_null() && progress.batch_size <= 0) {
    base_batch_size->fail(
        "needs the samples of an optimizer step, which are unknown here; set "
        "LoopHooksSettings::batch_size, or remove the key");
  }
  // A length of 0 means unknown.
  if (progress.max_epochs > 0 && options_.begin_epoch() > progress.max_epochs) {
    fail_option("begin_epoch",
                "is {}, but training ends after {} epoch(s); the average would never start",
                options_.begin_epoch(), progress.max_epochs);
  }
  if (progress.max_iters > 0 && options_.begin_iter() > progress.max_iters) {
    fail_option("begin_iter",
                "is {}, but training ends after {} iteration(s); the average would never start",
                options_.begin_iter(), progress.max_iters);
  }
}

std::vector<std::string> EMAHook::describe_run(Runner& runner) {
  is_described_ = true;
  std::vector<std::string> lines;
  const AveragedModel::Context context = context_of(runner);
  const std::shared_ptr<AveragedModel> average = build_average(context);
  const std::string horizon = text_of_horizon(*average, context);
  if (!horizon.empty()) lines.push_back(horizon);
  for (const std::string& line : average->coverage().lines()) {
    lines.push_back(is_first() ? line : fmt::format("{}: {}", options_.name(), line));
  }
  return lines;
}

std::map<std::string, std::string> EMAHook::measured_weights() const {
  if (!options_.evaluate_on_ema()) return {};
  if (!is_first()) return {{"_" + options_.name(), options_.name()}};
  std::map<std::string, std::string> measured{{"", "averaged"}};
  if (options_.evaluate_on_origin()) measured["_origin"] = "raw";
  return measured;
}

AveragedModel& EMAHook::flushed(Runner& runner) const {
  runner.averages().flush();
  return *average_;
}

void EMAHook::before_train(Runner& runner) {
  try {
    check_run(runner);  // for hosts that do not call it
  } catch (const OptionError& error) {
    fail<ConfigError>("{}: {}", kName, error.what());
  }
  at_once_ = false;
  steps_seen_ = runner.progress().optimizer_steps;
  if (start_from_average_) {
    AveragedModel& average = flushed(runner);
    average.copy_to(runner.model());
    average.reset(runner.model());
    start_from_average_ = false;
  }
}

void EMAHook::before_train_epoch(Runner& runner) {
  flushed(runner).rebind(runner.model());
}

bool EMAHook::started(const Runner& runner) const {
  const Progress& progress = runner.progress();
  return options_.begin_epoch() > 0 ? progress.epoch + 1 >= options_.begin_epoch()
                                    : progress.iter + 1 >= options_.begin_iter();
}

/// The updates of a run of `length` steps or iterations, without those before the begin.
int64_t EMAHook::updates_of(const Progress& progress, int64_t length) const {
  const int64_t before =
      std::max(options_.begin_iter() - 1, (options_.begin_epoch() - 1) * progress.epoch_length);
  if (length <= 0 || before <= 0) return length;
  const int64_t each = options_.counts_iterations() ? 1 : progress.accumulative_counts;
  return std::max<int64_t>(length - before / std::max<int64_t>(each, 1), 0);
}

void EMAHook::after_train_iter(Runner& runner, int64_t /*batch*/, const Scalars& /*outputs*/) {
  const int64_t steps = runner.progress().optimizer_steps;
  const bool stepped = steps < 0 || steps > steps_seen_ || options_.counts_iterations();
  steps_seen_ = steps;
  AverageSet& averages = runner.averages();
  // A host that calls hooks directly skipped the hook that this one waited for.
  at_once_ = at_once_ || averages.is_due(*average_);
  averages.post(*average_, stepped && started(runner));
  if (at_once_ || !runner.hooks().next_posts_averages(*this)) averages.flush();
}

void EMAHook::begin_evaluation(Runner& runner) {
  if (is_first() && options_.evaluate_on_ema()) guard_ = flushed(runner).swap(runner.model());
}

void EMAHook::end_evaluation(Runner& runner, Scalars& metrics) {
  guard_.release();
  if (metrics.empty()) return;  // the pass was interrupted
  if (is_first()) {
    if (options_.evaluate_on_ema() && options_.evaluate_on_origin()) {
      metrics.merge(runner.validate("_origin"));
    }
  } else if (options_.evaluate_on_ema()) {
    const SwapGuard guard = flushed(runner).swap(runner.model());
    metrics.merge(runner.validate("_" + options_.name()));
  }
}

// ---- checkpoints

void EMAHook::before_save_checkpoint(Runner& runner, Value& checkpoint) {
  AveragedModel& average = flushed(runner);
  if (!average.is_swapped()) average.rebind(runner.model());  // includes added parameters
  Value& state_dict = checkpoint.at("state_dict");
  // While the averaged weights are in the model, the raw ones are set aside.
  for (const NamedTensor& raw : average.swapped_out()) state_dict.set(raw.name, raw.tensor);
  AverageState state = average.state_dict();
  const Node options = average.rule_options();
  const Node* const start = options.is_mapping() ? options.find("start") : nullptr;
  const bool is_copy = !start || !start->is_scalar() || start->text() != "initial";
  if (!average.has_started() && is_copy) {  // a copy of the model until then
    state.values = runner.model().tensors();
    state.exact.clear();
    state.compensation.clear();
  }
  save_average(checkpoint, options_.name(), state, update_count_name(options_.count()));
}

void EMAHook::report(const LoadReport& report, const std::string& what) const {
  if (report.clean()) return;
  if (options_.strict_load()) {
    fail<CheckpointError>("{} does not fit the average: {}", what, report.text());
  }
  log_warning("EMAHook: {} fits the average only in part; the rest keeps the model's values ({})",
              what, report.text());
}

void EMAHook::load(Runner& runner, const Value& checkpoint, const std::string& name) {
  AverageState state = saved_average(checkpoint, name);
  const int64_t counted = std::exchange(
      state.steps,
      resumed_steps(checkpoint, name, runner.progress(), options_.counts_iterations(), kName));
  if (state.steps != counted) {  // of another unit: so are other numbers of updates
    state.numbers = state.numbers.without({"origin", "restarted_at"});
    state.options = Node();
  }
  const std::string rule = std::exchange(state.rule, {});  // the warning below has the hook's name
  const LoadReport loaded = flushed(runner).load_state_dict(state);
  if (!loaded.mismatched.empty() && runner.resuming()) {
    fail<CheckpointError>("the checkpoint's {} is from another model: {}", average_key(name),
                          loaded.text());
  }
  report(loaded, average_key(name));
  if (!rule.empty() && rule != average_->rule_name()) {
    log_warning("EMAHook: the checkpoint's average was made by {}; it continues with {}", rule,
                average_->rule_name());
  }
}

void EMAHook::after_load_checkpoint(Runner& runner, Value& checkpoint) {
  const bool wants_raw = options_.evaluate_on_origin() || !options_.evaluate_on_ema();
  const std::string& own = options_.name();
  flushed(runner).rebind(runner.model());  // its layers may have changed since before_run

  // A run that starts from weights restarts its averages. A test needs what it will measure.
  const bool measured = is_first() ? wants_raw : !runner.training();
  if (measured) restore_state_dict(checkpoint);
  std::optional<std::string> name;
  if (runner.resuming()) {
    name = find_resumed_average(checkpoint, own, runner.averages().all(), kName);
  } else if (measured && checkpoint.contains(average_key(own))) {
    name = own;
  }
  if (name) {
    load(runner, checkpoint, *name);
    if (name->empty()) exchange_weights_of(checkpoint, *name);  // raw weights back to the model
    start_from_average_ = is_first() && !runner.resuming();
    if (*name != own) {
      log_info("EMAHook: of the checkpoint's averages, {} continues as {}", average_title(*name),
               average_title(own));
      checkpoint.erase(average_key(*name));
    }
    return;
  }
  if (runner.resuming() || measured) {
    log_warning("EMAHook: the checkpoint has no '{}'; the average is a copy of its weights",
                average_key(own));
  }
  report(flushed(runner).load_state(tensors_of(checkpoint.at("state_dict")), 0), "state_dict");
}

}  // namespace polyak
