// SPDX-License-Identifier: Apache-2.0
#include "polyak/hooks/early_stopping_hook.h"

#include <cmath>

#include "polyak/core/log.h"
#include "polyak/runtime/hook_list.h"
#include "polyak/runtime/metric_direction.h"
#include "polyak/runtime/metric_names.h"
#include "polyak/runtime/runner.h"

namespace polyak {
namespace {

constexpr const char* kEarlyStopping = "EarlyStoppingHook";
constexpr const char* kStopRecords = "early_stopping";  // in the run_info

}  // namespace

void EarlyStoppingHookOptions::visit(OptionVisitor& visitor) {
  visitor.required("monitor", &monitor_,
                   "A metric of the validation, such as accuracy or accuracy_origin.");
  visitor.choice("rule", &rule_, {"greater", "less"},
                 "Which values are better; null: by the metric's name.");
  visitor.key("min_delta", &min_delta_, "The least change that counts as better.", at_least(0));
  visitor.key("strict", &strict_, "Fail if the metric is missing, instead of a warning.");
  visitor.key("check_finite", &check_finite_, "End training if the metric is not finite.");
  visitor.key("patience", &patience_, "Validations in sequence that may be no better.",
              count_from(1));
  visitor.key("stopping_threshold", &stopping_threshold_,
              "End training as soon as the metric is better than this; null: do not.");
}

void EarlyStoppingHookOptions::validate() const {
  if (rule_ || polyak::larger_is_better(monitor_)) return;
  fail_option("rule", "is required, as '{}' does not say which values are better: greater or less",
              monitor_);
}

bool EarlyStoppingHookOptions::larger_is_better() const {
  return rule_ ? *rule_ == "greater" : polyak::larger_is_better(monitor_).value();
}

EarlyStoppingHook::EarlyStoppingHook(EarlyStoppingHookOptions options)
    : options_(std::move(options)) {
  check_options(options_, kEarlyStopping);
  larger_is_better_ = options_.larger_is_better();
}

void EarlyStoppingHook::check_run(Runner& runner) {
  if (!runner.training()) return;
  check_metric(options_.monitor(), measured_metrics(runner), kEarlyStopping, "monitor");
}

/// {best, wait_count}: the best value, once there is one, and the validations since.
Value& EarlyStoppingHook::record(Runner& runner) const {
  Value& info = runner.run_info();
  if (!info.contains(kStopRecords)) info.set(kStopRecords, Value::dict());
  int64_t before = 0;  // of several such hooks
  bool reached = false;
  runner.hooks().call([&](const Hook& hook) {
    reached = reached || &hook == this;
    if (!reached && dynamic_cast<const EarlyStoppingHook*>(&hook)) ++before;
  });
  Value& records = info.at(kStopRecords);
  const std::string key = fmt::format("{}:{}", before, options_.monitor());
  if (!records.contains(key)) records.set(key, Value::dict({{"wait_count", int64_t{0}}}));
  return records.at(key);
}

/// What a log says; empty if training goes on.
std::string EarlyStoppingHook::reason_to_stop(Value& record, double value) const {
  const Value* const best = record.find("best");
  const double change = larger_is_better_ ? options_.min_delta() : -options_.min_delta();
  if (options_.check_finite() && !std::isfinite(value)) {
    return fmt::format("{} is {}", options_.monitor(), value);
  }
  if (const std::optional<double> threshold = options_.stopping_threshold();
      threshold && is_better(value, *threshold)) {
    record.set("best", value);
    return fmt::format("{} is {:.4f}, {} than {}", options_.monitor(), value,
                       larger_is_better_ ? "greater" : "less", *threshold);
  }
  if (!best || !is_better(best->as_real() + change, value)) {
    record.set("best", value);
    record.set("wait_count", int64_t{0});
    return {};
  }
  const int64_t waited = record.at("wait_count").as_int() + 1;
  record.set("wait_count", waited);
  if (waited < options_.patience()) return {};
  return fmt::format("{} did not improve by {} in the last {} validations; the best is {:.4f}",
                     options_.monitor(), options_.min_delta(), waited, best->as_real());
}

void EarlyStoppingHook::after_val_epoch(Runner& runner, Scalars& metrics) {
  if (!runner.training() || metrics.empty()) return;  // the pass was interrupted
  const auto found = metrics.find(options_.monitor());
  if (found == metrics.end()) {
    const std::string text =
        fmt::format("EarlyStoppingHook: the validation gave no '{}'", options_.monitor());
    if (options_.strict()) fail<Error>("{}", text);
    log_warning("{}; training goes on", text);
    return;
  }
  const std::string reason = reason_to_stop(record(runner), found->second);
  if (reason.empty()) return;
  log_info("EarlyStoppingHook: {}; training ends here", reason);
  runner.request_stop();
}

}  // namespace polyak
