// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/ema_hook.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <typeinfo>

#include "polyak/config/nearest.h"
#include "polyak/core/log.h"
#include "polyak/runtime/checkpoint_averages.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/run_checkpoint.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

constexpr const char* kModulePrefix = "module.";

/// The tensors of a dict that are named `prefix` + name; without the prefix.
std::vector<NamedTensor> tensors_of(const Value& dict, const std::string& prefix) {
  std::vector<NamedTensor> tensors;
  for (const auto& [key, value] : dict.entries()) {
    if (!value.is_tensor() || key.kind() != Value::Kind::string) continue;
    const std::string& name = key.as_string();
    if (name.compare(0, prefix.size(), prefix) == 0) {
      tensors.push_back({name.substr(prefix.size()), value.as_tensor(), false});
    }
  }
  return tensors;
}

Value to_value(const Node& node) {
  if (node.is_bool()) return node.as_bool();
  if (node.is_int()) return node.as_int();
  if (node.is_number()) return node.as_double();
  if (node.is_scalar()) return node.text();
  Value value;
  if (node.is_mapping()) {
    value = Value::dict();
    for (const auto& [key, entry] : node.entries()) value.set(key, to_value(entry));
  } else if (node.is_sequence()) {
    value = Value::list();
    for (const Node& item : node.items()) value.items().push_back(to_value(item));
  }
  return value;
}

std::string in_quotes(const std::string& name) {
  return name.empty() ? "the one without a name" : fmt::format("'{}'", name);
}

/// Whether two values of options are the same; files hold numbers as tensors.
bool same_option(const Value& a, const Value& b) {
  const auto is_number = [](const Value& value) {
    return value.kind() == Value::Kind::integer || value.kind() == Value::Kind::real ||
           value.is_tensor();
  };
  if (is_number(a) && is_number(b)) return a.as_real() == b.as_real();
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Value::Kind::none:
      return true;
    case Value::Kind::boolean:
      return a.as_bool() == b.as_bool();
    case Value::Kind::string:
      return a.as_string() == b.as_string();
    default:
      return false;
  }
}

}  // namespace

void EMAHookOptions::visit(OptionVisitor& visitor) {
  visitor.key("ema_type", &ema_type_, "The average to keep; its own keys stand beside this one.");
  visitor.key("begin_iter", &begin_iter_,
              "The first iteration that counts, from 1; 0 and 1 are the same.", steps_from(0));
  visitor.key("begin_epoch", &begin_epoch_,
              "The first epoch that counts, from 1; not with begin_iter.", steps_from(0));
  visitor.choice(
      "count", &count_, {"optimizer_steps", "iterations"},
      "What makes an update; iterations is MMEngine's way, wrong with accumulative_counts.");
  visitor.key("evaluate_on_ema", &evaluate_on_ema_, "Validate and test the averaged weights.");
  visitor.key(
      "evaluate_on_origin", &evaluate_on_origin_,
      "Validate and test the raw weights; beside the averaged ones their metrics end in _origin.");
  visitor.key(
      "strict_load", &strict_load_,
      "Refuse a checkpoint whose names or shapes differ from the model's, instead of warning.");
  visitor.key("name", &name_, "Tells several averages over one model apart; the first has none.");
  visitor.rest(&average_, "The keys of the average that ema_type names.");
}

void EMAHookOptions::validate() const {
  if (begin_iter_ != 0 && begin_epoch_ != 0) {
    fail<ConfigError>(
        "begin_iter and begin_epoch cannot both be set; begin_iter is {}, begin_epoch is {}",
        begin_iter_, begin_epoch_);
  }
  if (name_.find_first_of(" \t/") != std::string::npos || name_ == "ema") {
    fail<ConfigError>(
        "name: '{}' cannot name an average; take letters, digits and _, but not 'ema'", name_);
  }
}

EMAHook::EMAHook(EMAHookOptions options, const Registry<AveragedModel>& averages)
    : options_(std::move(options)), averages_(averages) {
  check_options(options_, "EMAHook");
  average_node_ = options_.average();
  Node type(options_.ema_type());
  type.set_place(average_node_.place());
  average_node_.set("type", type).set_path(average_node_.path_of("ema_type"));
  // A key that is nobody's is reported with the keys of both, since a user sees one block.
  const std::string registered = options_.ema_type().substr(options_.ema_type().rfind('.') + 1);
  if (averages_.contains(registered)) {
    std::vector<std::string> known;
    for (const auto& key : averages_.describe(registered).keys) known.push_back(key.name);
    const std::set<std::string> of_average(known.begin(), known.end());
    for (const auto& key : describe_options(options_)) {
      if (!key.rest) known.push_back(key.name);
    }
    std::sort(known.begin(), known.end());
    for (const auto& [key, value] : options_.average().entries()) {
      if (of_average.count(key)) continue;
      const std::string near = nearest_name(key, known);
      value.fail(fmt::format("unknown key; {}EMAHook takes: {} (with ema_type {})",
                             near.empty() ? "" : fmt::format("did you mean '{}'? ", near),
                             fmt::join(known, ", "), registered));
    }
  }
  make_average_ = averages_.prepare(average_node_);
  if (!options_.evaluate_on_ema() && !options_.evaluate_on_origin()) {
    log_warning(
        "EMAHook: evaluate_on_ema and evaluate_on_origin are both false; the raw weights are "
        "evaluated");
    options_.evaluate_on_origin(true);
  }
}

void EMAHook::before_run(Runner& runner) {
  updates_ = {this};
  const Model model = runner.model();
  if (average_ && model_ == model.identity()) {  // train() then test(): the average goes on
    average_->rebind(model);
    return;
  }
  const Progress& progress = runner.progress();
  AveragedModel::Context context;
  context.model = model;
  const int64_t length = options_.counts_iterations() || progress.max_optimizer_steps <= 0
                             ? progress.max_iters
                             : progress.max_optimizer_steps;
  if (length > 0) context.max_iters = length;
  if (!runner.training()) context.max_iters = 1;  // no update will ask for it
  try {
    average_ = make_average_(context);
  } catch (const ConfigError& error) {  // of the constructor: the keys were read before
    average_node_.fail(error.what());
  }
  model_ = model.identity();
  runner.averages().push_back({options_.name(), average_});
}

void EMAHook::check_run(Runner& runner) {
  runner.hooks().call([&](Hook& hook) {
    const auto* other = dynamic_cast<const EMAHook*>(&hook);
    if (other && other != this && other->options_.name() == options_.name()) {
      fail<ConfigError>("two EMAHooks share {}; give every EMAHook but one a 'name' of its own",
                        is_first() ? "the place of the average without a name"
                                   : fmt::format("the name '{}'", options_.name()));
    }
  });
  if (!runner.training()) return;
  const Progress& progress = runner.progress();
  // A length of 0 is one that the host does not state.
  if (progress.max_epochs > 0 && options_.begin_epoch() > progress.max_epochs) {
    fail<ConfigError>(
        "EMAHook: begin_epoch: is {}, but training ends after {} epoch(s); the average would "
        "never start",
        options_.begin_epoch(), progress.max_epochs);
  }
  if (progress.max_iters > 0 && options_.begin_iter() > progress.max_iters) {
    fail<ConfigError>(
        "EMAHook: begin_iter: is {}, but training ends after {} iteration(s); the average "
        "would never start",
        options_.begin_iter(), progress.max_iters);
  }
}

std::map<std::string, std::string> EMAHook::measured_weights() const {
  if (!options_.evaluate_on_ema()) return {};
  if (!is_first()) return {{"_" + options_.name(), options_.name()}};
  std::map<std::string, std::string> measured{{"", "averaged"}};
  if (options_.evaluate_on_origin()) measured["_origin"] = "raw";
  return measured;
}

void EMAHook::before_train(Runner& runner) {
  check_run(runner);  // for hosts that do not call it
  join_neighbours(runner);
  steps_seen_ = runner.progress().optimizer_steps;
  if (start_from_average_) {
    average_->copy_to(runner.model());
    average_->reset(runner.model());
    start_from_average_ = false;
  }
}

void EMAHook::before_train_epoch(Runner& runner) {
  average_->rebind(runner.model());
}

bool EMAHook::started(const Runner& runner) const {
  const Progress& progress = runner.progress();
  return options_.begin_epoch() > 0 ? progress.epoch + 1 >= options_.begin_epoch()
                                    : progress.iter + 1 >= options_.begin_iter();
}

/// Neighbours leave their updates to the last of them, which makes them in one pass. A hook of
/// another kind in between may look at an average, so it parts them.
void EMAHook::join_neighbours(Runner& runner) {
  updates_.clear();
  bool joined = false;  // this hook is among those collected
  bool closed = false;
  runner.hooks().call([&](Hook& hook) {
    if (closed) return;
    // Not a class of its own that derives: that one may update when it likes.
    auto* neighbour = typeid(hook) == typeid(EMAHook) ? static_cast<EMAHook*>(&hook) : nullptr;
    if (!neighbour) {
      closed = joined;
      if (!joined) updates_.clear();
      return;
    }
    updates_.push_back(neighbour);
    joined = joined || neighbour == this;
  });
  if (!joined) updates_ = {this};  // called by a host that keeps no list
  if (updates_.back() != this) updates_.clear();
  together_.reserve(updates_.size());
}

void EMAHook::after_train_iter(Runner& runner, int64_t /*batch*/, const Scalars& /*outputs*/) {
  const int64_t steps = runner.progress().optimizer_steps;
  const bool stepped = steps < 0 || steps > steps_seen_ || options_.counts_iterations();
  steps_seen_ = steps;
  if (due_) updates_ = {this};  // a host that calls hooks by hand, and not the one that had it
  due_ = stepped && started(runner);
  together_.clear();
  for (EMAHook* hook : updates_) {
    if (!hook->due_) continue;
    hook->due_ = false;
    AveragedModel& average = *hook->average_;
    together_.push_back(&average);
    const double weight = average.weight(average.steps());
    runner.log("ema_momentum" + hook->suffix(), weight);
  }
  if (together_.empty()) return;
  update_together(together_, runner.model());
  for (const EMAHook* hook : updates_) {
    const int64_t skipped = hook->average_ ? hook->average_->skipped() : 0;
    if (skipped > 0) runner.log("ema_skipped" + hook->suffix(), static_cast<double>(skipped));
  }
}

void EMAHook::begin_evaluation(Runner& runner) {
  if (is_first() && options_.evaluate_on_ema()) guard_ = average_->swap(runner.model());
}

void EMAHook::end_evaluation(Runner& runner, Scalars& metrics) {
  guard_.release();
  if (metrics.empty()) return;  // the pass was broken off
  if (is_first()) {
    if (options_.evaluate_on_ema() && options_.evaluate_on_origin()) {
      metrics.merge(runner.validate("_origin"));
    }
  } else if (options_.evaluate_on_ema()) {
    const SwapGuard guard = average_->swap(runner.model());
    metrics.merge(runner.validate("_" + options_.name()));
  }
}

// ---- checkpoints

void EMAHook::before_save_checkpoint(Runner& runner, Value& checkpoint) {
  if (!average_->is_swapped()) average_->rebind(runner.model());  // sees parameters that were added
  Value& state_dict = checkpoint.at("state_dict");
  // While the averaged weights are in the model, the raw ones stand aside.
  for (const NamedTensor& raw : average_->swapped_out()) state_dict.set(raw.name, raw.tensor);

  Value state = Value::dict({}, /*ordered=*/true);
  state.set("steps", at::tensor(average_->steps(), at::kLong));
  // Before the first update the average is a copy of the model.
  const bool is_copy = average_->steps() == 0;
  for (const NamedTensor& item : is_copy ? runner.model().tensors() : average_->state()) {
    state.set(kModulePrefix + item.name, item.tensor.detach());
  }

  Value record = Value::dict();
  record.set("rule", average_->rule_name());
  record.set("options", to_value(average_->rule_options()));
  record.set("count", options_.count());
  Value exact = Value::dict({}, /*ordered=*/true);
  for (const auto& item : average_->named_averages()) {
    const at::Tensor& stored = state.at(kModulePrefix + item.key()).as_tensor();
    if (stored.scalar_type() != item.value().scalar_type()) exact.set(item.key(), item.value());
  }
  if (!exact.entries().empty() && !is_copy) record.set("average", std::move(exact));
  Value compensation = Value::dict({}, /*ordered=*/true);
  for (const NamedTensor& item : average_->compensation()) compensation.set(item.name, item.tensor);
  if (!compensation.entries().empty() && !is_copy) {
    record.set("compensation", std::move(compensation));
  }

  if (is_first()) exchange_weights(state_dict, state);
  checkpoint.set(average_key(options_.name()), std::move(state));
  if (!checkpoint.contains("polyak")) {
    checkpoint.set("polyak", Value::dict()).set("format", kCheckpointFormat);
  }
  if (is_first()) checkpoint.at("polyak").set("state_dict", "averaged");
  set_average_record(checkpoint, options_.name(), std::move(record));
}

void EMAHook::report(const LoadReport& report, const std::string& what, bool strict) const {
  if (report.clean()) return;
  if (strict) {
    fail<CheckpointError>("{} does not fit the average: {}", what, report.text());
  }
  log_warning(
      "EMAHook: {} does not fit the average everywhere; the rest stays as the model is ({})", what,
      report.text());
}

/// The updates that an average of a checkpoint made, in this hook's clock. Other programs count
/// iterations, as MMEngine does.
int64_t EMAHook::steps_of(const Runner& runner, const Value& checkpoint,
                          const std::string& name) const {
  const int64_t steps = average_steps(checkpoint, name);
  const Value* record = average_record(checkpoint, name);
  const Value* count = record ? record->find("count") : nullptr;
  if (is_polyaks(checkpoint) && !count) return steps;  // 0.1 did not say
  const bool theirs = !count || count->as_string() == "iterations";
  const Progress& progress = runner.progress();
  if (theirs == options_.counts_iterations() || progress.accumulative_counts == 1) return steps;

  const int64_t iters = checkpoint.at("meta").at("iter").as_int();
  const Value* made =
      is_polyaks(checkpoint) ? checkpoint.at("polyak").find("optimizer_steps") : nullptr;
  const int64_t optimizer_steps = made ? made->as_int() : progress.steps_in(iters);
  const int64_t all = theirs ? iters : optimizer_steps;
  if (steps > all) {
    fail<CheckpointError>(
        "{}.steps is {}, more than the {} {} of the run; it cannot be counted in {}",
        average_key(name), steps, all, theirs ? "iterations" : "optimizer steps",
        theirs ? "optimizer steps" : "iterations");
  }
  // The average saw the last `steps` of its clock.
  const int64_t converted =
      theirs ? optimizer_steps - progress.steps_in(iters - steps)
             : iters - std::min(iters, (optimizer_steps - steps) * progress.accumulative_counts);
  log_info("EMAHook: the checkpoint's {} counts {} {}; it goes on from {} {}", average_key(name),
           steps, theirs ? "iterations" : "optimizer steps", converted,
           theirs ? "optimizer steps" : "iterations");
  return converted;
}

void EMAHook::load(const Runner& runner, const Value& checkpoint, const std::string& name) {
  LoadReport loaded =
      average_->load_state(tensors_of(checkpoint.at(average_key(name)), kModulePrefix),
                           steps_of(runner, checkpoint, name));
  if (!loaded.mismatched.empty() && runner.resuming()) {
    fail<CheckpointError>("the checkpoint's {} is of another model: {}", average_key(name),
                          loaded.text());
  }
  report(loaded, average_key(name), options_.strict_load());
  const Value* record = average_record(checkpoint, name);
  if (!record) return;
  if (const Value* exact = record->find("average")) {
    average_->load_state(tensors_of(*exact, ""), average_->steps());
  }
  if (const Value* compensation = record->find("compensation")) {
    average_->load_compensation(tensors_of(*compensation, ""));
  }
  if (const Value* rule = record->find("rule");
      rule && rule->as_string() != average_->rule_name()) {
    log_warning("EMAHook: the checkpoint's average was made by {}; it goes on with {}",
                rule->as_string(), average_->rule_name());
  }
}

bool EMAHook::matches(const Value& checkpoint, const std::string& name) const {
  const Value* record = average_record(checkpoint, name);
  const Value* rule = record ? record->find("rule") : nullptr;
  const Value* saved = record ? record->find("options") : nullptr;
  if (!average_) return false;
  if (!rule || !saved || rule->as_string() != average_->rule_name()) return false;
  const Value own = to_value(average_->rule_options());
  if (own.entries().size() != saved->entries().size()) return false;
  const Node* length = average_node_.find("max_iters");
  const bool length_of_run = !length || length->is_null();
  return std::all_of(own.entries().begin(), own.entries().end(), [&](const auto& entry) {
    const Value* theirs = saved->find(entry.first);
    // A run may be made longer.
    if (length_of_run && entry.first.as_string() == "max_iters") return theirs != nullptr;
    return theirs && same_option(entry.second, *theirs);
  });
}

/// An average of the same name goes on. One that no hook claims by its name goes on under another
/// name if nothing is left to guess: one average, one hook, the same rule and options.
std::optional<std::string> EMAHook::find_average(Runner& runner, const Value& checkpoint) const {
  std::vector<std::string> left = averages_in(checkpoint);
  if (std::count(left.begin(), left.end(), options_.name())) return options_.name();
  std::vector<const EMAHook*> without{this};
  runner.hooks().call([&](Hook& hook) {
    const auto* other = dynamic_cast<const EMAHook*>(&hook);
    if (!other || other == this) return;
    const auto own = std::find(left.begin(), left.end(), other->options_.name());
    own == left.end() ? without.push_back(other) : static_cast<void>(left.erase(own));
  });
  if (left.empty()) return std::nullopt;
  std::vector<std::string> fitting;
  for (const std::string& name : left) {
    if (matches(checkpoint, name)) fitting.push_back(name);
  }
  const bool alone = fitting.size() == 1 &&
                     std::count_if(without.begin(), without.end(), [&](const EMAHook* hook) {
                       return hook->matches(checkpoint, fitting.front());
                     }) == 1;
  if (alone) return fitting.front();
  std::vector<std::string> names(left.size());
  std::transform(left.begin(), left.end(), names.begin(), in_quotes);
  fail<CheckpointError>(
      "EMAHook: the checkpoint holds no average {}; it holds {}, which no EMAHook of this config "
      "keeps and which {}; set this EMAHook's name to that of the average that goes on, or remove "
      "the EMAHook to drop it",
      is_first() ? "without a name" : fmt::format("named '{}'", options_.name()),
      fmt::join(names, ", "),
      fitting.empty() ? "was made by another rule or other options" : "fits more than once");
}

void EMAHook::after_load_checkpoint(Runner& runner, Value& checkpoint) {
  const bool wants_raw = options_.evaluate_on_origin() || !options_.evaluate_on_ema();

  // A run that starts from weights starts its averages anew. A test needs what it will measure.
  const bool measured = is_first() ? wants_raw : !runner.training();
  if (measured) restore_state_dict(checkpoint);
  std::optional<std::string> name;
  if (runner.resuming()) {
    name = find_average(runner, checkpoint);
  } else if (measured && checkpoint.contains(average_key(options_.name()))) {
    name = options_.name();
  }
  if (name) {
    if (name->empty()) exchange_weights_of(checkpoint, *name);  // raw weights back to the model
    load(runner, checkpoint, *name);
    start_from_average_ = is_first() && !runner.resuming();
    if (*name != options_.name()) {
      log_info("EMAHook: the checkpoint's average {} goes on as {}", in_quotes(*name),
               in_quotes(options_.name()));
      checkpoint.erase(average_key(*name));
    }
    return;
  }
  if (runner.resuming() || measured) {
    log_warning("EMAHook: the checkpoint has no '{}'; the average is a copy of its weights",
                average_key(options_.name()));
  }
  report(average_->load_state(tensors_of(checkpoint.at("state_dict"), ""), 0), "state_dict",
         options_.strict_load());
}

}  // namespace polyak
