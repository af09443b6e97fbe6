// SPDX-License-Identifier: Apache-2.0
// The keys of schedules.
#include "polyak/trainer/param_scheduler.h"

namespace polyak {

void ParamSchedulerOptions::visit(OptionVisitor& visitor) {
  visitor.key("by_epoch", &by_epoch, "Whether the schedule counts epochs; false: iterations.");
  visitor.key("begin", &begin, "First unit of the schedule.", count_from(0));
  visitor.key("end", &end, "Unit before which the schedule ends; null: the end of the run.",
              count_from(1));
  visitor.key("convert_to_iter_based", &convert_to_iter_based,
              "Give the numbers in epochs, but make a change in each iteration.");
}

void ParamSchedulerOptions::validate() const {
  if (end && *end <= begin) fail_option("end", "must be above begin, got {} and {}", *end, begin);
  if (convert_to_iter_based && !by_epoch) {
    fail_option("convert_to_iter_based", "needs by_epoch, since it converts epochs");
  }
}

void StepLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("step_size", &step_size, "Units between two changes.", count_from(1));
  visitor.key("gamma", &gamma, "Factor of the learning rate or momentum at each change.", above(0));
  ParamSchedulerOptions::visit(visitor);
}

void MultiStepLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("milestones", &milestones,
                   "Units, counted from begin, in which the value changes.", count_from(1));
  visitor.key("gamma", &gamma, "Factor of the learning rate or momentum at each milestone.",
              above(0));
  ParamSchedulerOptions::visit(visitor);
}

void CosineAnnealingLrOptions::visit(OptionVisitor& visitor) {
  visitor.key("T_max", &T_max, "Units until the smallest value; null: from begin to end.",
              count_from(1));
  visitor.key("eta_min", &eta_min, "The smallest value.", at_least(0));
  ParamSchedulerOptions::visit(visitor);
}

void LinearLrOptions::visit(OptionVisitor& visitor) {
  visitor.key("start_factor", &start_factor, "Factor of the learning rate or momentum at begin.",
              Bounds{0.0, 1.0, true, false});
  visitor.key("end_factor", &end_factor, "Factor of the learning rate or momentum at the end.",
              closed_interval(0, 1));
  ParamSchedulerOptions::visit(visitor);
}

std::string annealing_name(Annealing annealing) {
  return annealing == Annealing::cos ? "cos" : "linear";
}

Annealing parse_annealing(const std::string& name) {
  if (name == "cos") return Annealing::cos;
  if (name == "linear") return Annealing::linear;
  fail_option("anneal_strategy", "must be cos or linear, got '{}'", name);
}

void ConstantLrOptions::visit(OptionVisitor& visitor) {
  visitor.key("factor", &factor, "Factor of the learning rate or momentum.",
              Bounds{0.0, 1.0, true, false});
  ParamSchedulerOptions::visit(visitor);
}

void ExponentialLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("gamma", &gamma, "Factor of the learning rate or momentum in each unit.",
                   above(0));
  ParamSchedulerOptions::visit(visitor);
}

void PolyLrOptions::visit(OptionVisitor& visitor) {
  visitor.key("power", &power, "Exponent of the part that is left of the schedule.", above(0));
  visitor.key("eta_min", &eta_min, "The value at the end.", at_least(0));
  ParamSchedulerOptions::visit(visitor);
}

void OneCycleLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("eta_max", &eta_max, "The largest rate.", above(0));
  visitor.key("total_steps", &total_steps, "Units of the cycle; null: from begin to end.",
              count_from(1));
  visitor.key("pct_start", &pct_start, "The part of the cycle in which the rate rises.",
              closed_interval(0, 1));
  visitor.text<annealing_name, parse_annealing>(
      "anneal_strategy", &anneal_strategy, {"cos", "linear"},
      "How the rate changes: along half a cosine or a line.");
  visitor.key("div_factor", &div_factor, "The first rate is eta_max divided by this.", above(0));
  visitor.key("final_div_factor", &final_div_factor,
              "The last rate is the first one divided by this.", above(0));
  visitor.key("three_phase", &three_phase,
              "Fall to the first rate in as many units as the rise took, then on to the last.");
  ParamSchedulerOptions::visit(visitor);
}

void CosineRestartLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("periods", &periods, "Units of each cycle.", count_from(1));
  visitor.key("restart_weights", &restart_weights,
              "The initial value is multiplied by these at the begin of each cycle.", at_least(0));
  visitor.key("eta_min", &eta_min, "The smallest value; this or eta_min_ratio.", at_least(0));
  visitor.key("eta_min_ratio", &eta_min_ratio, "The smallest value as a part of the initial one.",
              closed_interval(0, 1));
  ParamSchedulerOptions::visit(visitor);
}

void CosineRestartLrOptions::validate() const {
  ParamSchedulerOptions::validate();
  if (periods.empty()) fail_option("periods", "is empty; list the units of each cycle");
  if (periods.size() != restart_weights.size()) {
    fail_option("restart_weights", "has {} entries, but periods has {}", restart_weights.size(),
                periods.size());
  }
  if (eta_min.has_value() == eta_min_ratio.has_value()) {
    fail_option("eta_min", "{}; set eta_min or eta_min_ratio",
                eta_min ? "and eta_min_ratio are both set" : "is required, or eta_min_ratio");
  }
}

void SwaLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("swa_lr", &swa_lr, "The rate at the end, and from then on.", at_least(0));
  visitor.key("anneal_epochs", &anneal_epochs, "Units until that rate is reached; 0: at once.",
              count_from(0));
  visitor.text<annealing_name, parse_annealing>(
      "anneal_strategy", &anneal_strategy, {"cos", "linear"},
      "How the rate goes there: along half a cosine or a line.");
  ParamSchedulerOptions::visit(visitor);
}

}  // namespace polyak
