// SPDX-License-Identifier: Apache-2.0
#include "polyak/trainer/param_scheduler.h"

#include <algorithm>
#include <cmath>

namespace polyak {
namespace {

constexpr double kPi = 3.14159265358979323846;

class StepLr final : public ParamScheduler {
 public:
  StepLr(const StepLrOptions& options, const Context& context)
      : ParamScheduler(options, context), size_(units(options.step_size)), gamma_(options.gamma) {
    const int64_t length = units_in_run();
    if (length > 0 && size_ >= length) {
      doubt("step_size", "{} {} are not below the schedule's length, {}, so the rate never changes",
            size_, unit_name(), length);
    }
  }

 private:
  double next(double lr, int64_t last_step) const override {
    return last_step > 0 && last_step % size_ == 0 ? lr * gamma_ : lr;
  }
  Value settings() const override { return Value::dict({{"step_size", size_}, {"gamma", gamma_}}); }

  int64_t size_;
  double gamma_;
};

class MultiStepLr final : public ParamScheduler {
 public:
  MultiStepLr(const MultiStepLrOptions& options, const Context& context)
      : ParamScheduler(options, context), gamma_(options.gamma) {
    for (int64_t milestone : options.milestones) milestones_.push_back(units(milestone));
    const int64_t length = units_in_run();
    if (milestones_.empty()) doubt("milestones", "is empty, so the rate never changes");
    for (const int64_t milestone : milestones_) {
      if (length <= 0 || milestone < length) continue;
      doubt("milestones", "{} is never reached: the schedule has {} {}, counted from 0", milestone,
            length, unit_name());
    }
  }

 private:
  double next(double lr, int64_t last_step) const override {
    // A milestone that is listed twice counts twice.
    return lr * std::pow(gamma_, std::count(milestones_.begin(), milestones_.end(), last_step));
  }
  /// MMEngine counts how often each milestone is listed.
  Value settings() const override {
    Value counts = Value::dict();
    for (const int64_t milestone : milestones_) {
      counts.set(milestone, static_cast<int64_t>(
                                std::count(milestones_.begin(), milestones_.end(), milestone)));
    }
    return Value::dict({{"milestones", std::move(counts)}, {"gamma", gamma_}});
  }

  std::vector<int64_t> milestones_;
  double gamma_;
};

class CosineAnnealingLr final : public ParamScheduler {
 public:
  CosineAnnealingLr(const CosineAnnealingLrOptions& options, const Context& context)
      : ParamScheduler(options, context),
        t_max_(static_cast<double>(options.T_max ? units(*options.T_max) : length())),
        eta_min_(options.eta_min) {
    const int64_t length = units_in_run();
    if (length == 1) {
      doubt("end", "the schedule has one unit of {}, so the rate never changes", unit_name());
    } else if (length > 0 && t_max_ > static_cast<double>(length)) {
      const double left = (1 + std::cos(kPi * static_cast<double>(length - 1) / t_max_)) / 2;
      doubt(options.T_max ? "T_max" : "end",
            "eta_min is not reached: it takes {} {}, but the schedule has {}; {:.3g} of lr - "
            "eta_min is left at its end",
            static_cast<int64_t>(t_max_), unit_name(), length, left);
    }
  }

 private:
  double next(double lr, int64_t last_step) const override {
    if (last_step == 0) return lr;
    const auto step = static_cast<double>(last_step);
    // One step after the minimum, the quotient below would divide by zero.
    if (std::fmod(step - 1 - t_max_, 2 * t_max_) == 0) {
      return lr + (initial_lr() - eta_min_) * (1 - std::cos(kPi / t_max_)) / 2;
    }
    return (1 + std::cos(kPi * step / t_max_)) / (1 + std::cos(kPi * (step - 1) / t_max_)) *
               (lr - eta_min_) +
           eta_min_;
  }
  Value settings() const override {
    return Value::dict({{"T_max", static_cast<int64_t>(t_max_)}, {"eta_min", eta_min_}});
  }

  double t_max_;
  double eta_min_;
};

class LinearLr final : public ParamScheduler {
 public:
  LinearLr(const LinearLrOptions& options, const Context& context)
      : ParamScheduler(options, context),
        start_(options.start_factor),
        end_(options.end_factor),
        change_(options.end_factor - options.start_factor) {
    const int64_t steps = units_in_run();
    if (change_ == 0 || steps <= 0) return;
    if (length() == 1 && options.end) {
      doubt("end",
            "the schedule has only one unit of {}, so the rate stays at lr * start_factor; it "
            "reaches end_factor only with end: {} or more",
            unit_name(), options.begin + 2);
    } else if (steps == 1 || steps < length()) {
      const auto total = static_cast<double>(std::max<int64_t>(length() - 1, 1));
      doubt("end",
            "end_factor is not reached: the run has {} of the schedule's {} {}, and ends with a "
            "rate of lr * {:.3g}",
            steps, length(), unit_name(),
            start_ + change_ * static_cast<double>(steps - 1) / total);
    }
  }

 private:
  double next(double lr, int64_t last_step) const override {
    if (last_step == 0) return lr * start_;
    const auto total = static_cast<double>(length() - 1);
    return lr * (1 + change_ / (total * start_ + static_cast<double>(last_step - 1) * change_));
  }
  Value settings() const override {
    return Value::dict(
        {{"start_factor", start_}, {"end_factor", end_}, {"total_iters", length() - 1}});
  }

  double start_;
  double end_;
  double change_;
};

class SwaLr final : public ParamScheduler {
 public:
  SwaLr(const SwaLrOptions& options, const Context& context)
      : ParamScheduler(options, context),
        lr_(options.swa_lr),
        anneal_(units(options.anneal_epochs)),
        annealing_(options.anneal_strategy) {
    const int64_t length = units_in_run();
    if (length <= 0 || length > anneal_) return;
    doubt("anneal_epochs",
          "swa_lr is not reached: it takes {} {}, but the schedule has {}, and the first of them "
          "keeps the rate",
          anneal_, unit_name(), length);
  }

 private:
  double next(double lr, int64_t last_step) const override {
    if (anneal_ == 0) return lr_;
    const double before = part_of(std::max<int64_t>(last_step - 1, 0)), now = part_of(last_step);
    const double from = before == 1 ? lr_ : (lr - before * lr_) / (1 - before);
    return lr_ * now + from * (1 - now);
  }
  /// How much of the way is done after so many units, from 0 to 1.
  double part_of(int64_t step) const {
    const double part = std::min(static_cast<double>(step) / static_cast<double>(anneal_), 1.0);
    return annealing_ == Annealing::linear ? part : (1 - std::cos(kPi * part)) / 2;
  }
  Value settings() const override {
    return Value::dict({{"swa_lr", lr_},
                        {"anneal_epochs", anneal_},
                        {"anneal_strategy", annealing_name(annealing_)}});
  }

  double lr_;
  int64_t anneal_;
  Annealing annealing_;
};

template <class Scheduler, class O>
std::shared_ptr<ParamScheduler> make(const O& options, const ParamScheduler::Context& context,
                                     const char* name) {
  check_options(options, name);
  auto scheduler = std::make_shared<Scheduler>(options, context);
  scheduler->start();
  return scheduler;
}

}  // namespace

void ParamSchedulerOptions::visit(OptionVisitor& visitor) {
  visitor.key("by_epoch", &by_epoch, "Whether the schedule counts epochs; false: iterations.");
  visitor.key("begin", &begin, "First unit of the schedule.", count_from(0));
  visitor.key("end", &end, "Unit before which the schedule ends; null: the end of the run.",
              count_from(1));
  visitor.key("convert_to_iter_based", &convert_to_iter_based,
              "Give the numbers in epochs, but change the rate in each iteration.");
}

void ParamSchedulerOptions::validate() const {
  if (end && *end <= begin) fail_option("end", "must be above begin, got {} and {}", *end, begin);
  if (convert_to_iter_based && !by_epoch) {
    fail_option("convert_to_iter_based", "needs by_epoch, since it converts epochs");
  }
}

ParamScheduler::ParamScheduler(const ParamSchedulerOptions& options, const Context& context)
    : optimizer_(context.optimizer),
      by_epoch_(options.by_epoch && !options.convert_to_iter_based),
      factor_(options.convert_to_iter_based ? context.epoch_length : 1),
      begin_(units(options.begin)),
      end_(units(options.end.value_or(options.by_epoch ? context.max_epochs : context.max_iters))),
      run_(by_epoch_ ? context.max_epochs : context.max_iters),
      base_value_(context.optimizer->initial_lr()) {
  if (begin_ < run_) return;
  doubt("begin", "the schedule begins after {} {}, but the run has {}, so it changes nothing",
        begin_, unit_name(), run_);
}

ParamScheduler::~ParamScheduler() = default;

void ParamScheduler::step() {
  ++global_step_;
  if (global_step_ < begin_ || global_step_ >= end_) return;
  ++last_step_;
  optimizer_->set_lr(next(optimizer_->lr(), last_step_));
}

Value ParamScheduler::state_dict() const {
  Value state = Value::dict();
  state.set("param_name", "lr");
  state.set("by_epoch", by_epoch_);
  state.set("begin", begin_);
  state.set("end", end_);
  state.set("base_values", Value::list({base_value_}));
  state.set("last_step", last_step_);
  state.set("_global_step", global_step_);
  const Value own = settings();
  for (const auto& [key, value] : own.entries()) state.set(key, value);
  return state;
}

void ParamScheduler::load_state_dict(const Value& state) {
  const std::vector<Value>& base_values = state.at("base_values").items();
  if (base_values.empty()) fail<CheckpointError>("param_schedulers: base_values is empty");
  base_value_ = base_values.front().as_real();
  last_step_ = state.at("last_step").as_int();
  global_step_ = state.at("_global_step").as_int();
}

void StepLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("step_size", &step_size, "Units between two changes.", count_from(1));
  visitor.key("gamma", &gamma, "Factor of the learning rate at each change.", above(0));
  ParamSchedulerOptions::visit(visitor);
}

void MultiStepLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("milestones", &milestones,
                   "Units, counted from begin, in which the rate changes.", count_from(1));
  visitor.key("gamma", &gamma, "Factor of the learning rate at each milestone.", above(0));
  ParamSchedulerOptions::visit(visitor);
}

void CosineAnnealingLrOptions::visit(OptionVisitor& visitor) {
  visitor.key("T_max", &T_max, "Units until the smallest rate; null: from begin to end.",
              count_from(1));
  visitor.key("eta_min", &eta_min, "The smallest learning rate.", at_least(0));
  ParamSchedulerOptions::visit(visitor);
}

void LinearLrOptions::visit(OptionVisitor& visitor) {
  visitor.key("start_factor", &start_factor, "Factor of the learning rate at begin.",
              Bounds{0.0, 1.0, true, false});
  visitor.key("end_factor", &end_factor, "Factor of the learning rate at the end.",
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

void SwaLrOptions::visit(OptionVisitor& visitor) {
  visitor.required("swa_lr", &swa_lr, "The rate at the end, and from then on.", at_least(0));
  visitor.key("anneal_epochs", &anneal_epochs, "Units until that rate is reached; 0: at once.",
              count_from(0));
  visitor.text<annealing_name, parse_annealing>(
      "anneal_strategy", &anneal_strategy, {"cos", "linear"},
      "How the rate goes there: along half a cosine or a line.");
  ParamSchedulerOptions::visit(visitor);
}

std::shared_ptr<ParamScheduler> make_step_lr(const StepLrOptions& options,
                                             const ParamScheduler::Context& context) {
  return make<StepLr>(options, context, "StepLR");
}

std::shared_ptr<ParamScheduler> make_multi_step_lr(const MultiStepLrOptions& options,
                                                   const ParamScheduler::Context& context) {
  return make<MultiStepLr>(options, context, "MultiStepLR");
}

std::shared_ptr<ParamScheduler> make_cosine_annealing_lr(const CosineAnnealingLrOptions& options,
                                                         const ParamScheduler::Context& context) {
  return make<CosineAnnealingLr>(options, context, "CosineAnnealingLR");
}

std::shared_ptr<ParamScheduler> make_linear_lr(const LinearLrOptions& options,
                                               const ParamScheduler::Context& context) {
  return make<LinearLr>(options, context, "LinearLR");
}

std::shared_ptr<ParamScheduler> make_swa_lr(const SwaLrOptions& options,
                                            const ParamScheduler::Context& context) {
  return make<SwaLr>(options, context, "SWALR");
}

}  // namespace polyak
