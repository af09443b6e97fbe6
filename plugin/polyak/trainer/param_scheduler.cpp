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
      doubt("step_size", "{} {} are not below the schedule's length, {}, so the {} never changes",
            size_, unit_name(), length, value_name());
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
    if (milestones_.empty()) doubt("milestones", "is empty, so the {} never changes", value_name());
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
      doubt_one_unit();
    } else if (length > 0 && t_max_ > static_cast<double>(length)) {
      const double left = (1 + std::cos(kPi * static_cast<double>(length - 1) / t_max_)) / 2;
      doubt(options.T_max ? "T_max" : "end",
            "eta_min is not reached: it takes {} {}, but the schedule has {}; {:.3g} of {} - "
            "eta_min is left at its end",
            static_cast<int64_t>(t_max_), unit_name(), length, left, param_name());
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
            "the schedule has only one unit of {}, so the {} stays at {} * start_factor; it "
            "reaches end_factor only with end: {} or more",
            unit_name(), value_name(), param_name(), options.begin + 2);
    } else if (steps == 1 || steps < length()) {
      const auto total = static_cast<double>(std::max<int64_t>(length() - 1, 1));
      doubt("end",
            "end_factor is not reached: the run has {} of the schedule's {} {}, and ends with a "
            "{} of {} * {:.3g}",
            steps, length(), unit_name(), value_name(), param_name(),
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

class ConstantLr final : public ParamScheduler {
 public:
  ConstantLr(const ConstantLrOptions& options, const Context& context)
      : ParamScheduler(options, context), factor_(options.factor), ends_(options.end) {
    if (factor_ == 1) doubt("factor", "is 1, so the {} never changes", value_name());
  }

 private:
  double next(double lr, int64_t last_step) const override {
    if (last_step == 0) return lr * factor_;
    return ends_ && last_step == length() - 1 ? lr / factor_ : lr;
  }
  Value settings() const override {
    return Value::dict({{"factor", factor_}, {"total_iters", length() - 1}});
  }

  double factor_;
  bool ends_;
};

class ExponentialLr final : public ParamScheduler {
 public:
  ExponentialLr(const ExponentialLrOptions& options, const Context& context)
      : ParamScheduler(options, context), gamma_(options.gamma) {
    if (gamma_ == 1) doubt("gamma", "is 1, so the {} never changes", value_name());
    if (gamma_ != 1 && units_in_run() == 1) doubt_one_unit();
  }

 private:
  double next(double lr, int64_t last_step) const override {
    return last_step == 0 ? lr : lr * gamma_;
  }
  Value settings() const override { return Value::dict({{"gamma", gamma_}}); }

  double gamma_;
};

class PolyLr final : public ParamScheduler {
 public:
  PolyLr(const PolyLrOptions& options, const Context& context)
      : ParamScheduler(options, context), power_(options.power), eta_min_(options.eta_min) {
    const int64_t units = units_in_run();
    if (units == 1) {
      doubt_one_unit();
    } else if (units > 0 && units < length()) {
      doubt("end", "eta_min is not reached: the run has {} of the schedule's {} {}", units,
            length(), unit_name());
    }
  }

 private:
  double next(double lr, int64_t last_step) const override {
    if (last_step == 0) return lr;
    const auto left = static_cast<double>(length() - last_step);  // units, with this one
    return (lr - eta_min_) * std::pow(1 - 1 / left, power_) + eta_min_;
  }
  Value settings() const override {
    return Value::dict({{"eta_min", eta_min_}, {"power", power_}, {"total_iters", length() - 1}});
  }

  double power_;
  double eta_min_;
};

class OneCycleLr final : public ParamScheduler {
 public:
  OneCycleLr(const OneCycleLrOptions& options, const Context& context)
      : ParamScheduler(options, context),
        options_(options),
        total_(options.total_steps ? units(*options.total_steps) : length()) {
    const double first = options.eta_max / options.div_factor;
    const auto total = static_cast<double>(total_);
    const double top = options.pct_start * total - 1;
    phases_.push_back({top, first, options.eta_max});
    if (options.three_phase) phases_.push_back({2 * top, options.eta_max, first});
    phases_.push_back({total - 1, phases_.back().to, first / options.final_div_factor});
    const int64_t units = units_in_run();
    if (units > 0 && units < total_) {
      doubt(options.total_steps ? "total_steps" : "end",
            "the cycle does not end: it takes {} {}, but the schedule has {}", total_, unit_name(),
            units);
    }
  }

 private:
  struct Phase {
    double end;  // the unit in which it ends; may be a fraction
    double from, to;
  };

  double next(double /*lr*/, int64_t last_step) const override {
    const auto step = static_cast<double>(last_step);
    double begin = 0;
    for (const Phase& phase : phases_) {
      if (step <= phase.end || &phase == &phases_.back()) {
        const double part =
            phase.end > begin ? std::min((step - begin) / (phase.end - begin), 1.0) : 1.0;
        return options_.anneal_strategy == Annealing::linear
                   ? (phase.to - phase.from) * part + phase.from
                   : phase.to + (phase.from - phase.to) / 2 * (std::cos(kPi * part) + 1);
      }
      begin = phase.end;
    }
    return phases_.back().to;
  }
  Value settings() const override {
    return Value::dict({{"eta_max", options_.eta_max},
                        {"div_factor", options_.div_factor},
                        {"final_div_factor", options_.final_div_factor},
                        {"total_steps", total_}});
  }

  OneCycleLrOptions options_;
  int64_t total_;
  std::vector<Phase> phases_;
};

class CosineRestartLr final : public ParamScheduler {
 public:
  CosineRestartLr(const CosineRestartLrOptions& options, const Context& context)
      : ParamScheduler(options, context), options_(options) {
    int64_t all = 0;
    for (int64_t& period : options_.periods) all += period = units(period);
    const int64_t units = units_in_run();
    if (units > 0 && all < units) {
      doubt("periods", "they end after {} {}, but the schedule has {}; from there on the {} stays",
            all, unit_name(), units, value_name());
    }
  }

 private:
  double next(double lr, int64_t last_step) const override {
    int64_t step = last_step;
    for (size_t i = 0; i < options_.periods.size(); ++i) {
      const int64_t period = options_.periods[i];
      if (step < period) return within(lr, step, period, options_.restart_weights[i]);
      step -= period;
    }
    return lr;
  }
  double within(double lr, int64_t step, int64_t period, double weight) const {
    if (step == 0) return initial_lr() * weight;
    const double least =
        options_.eta_min ? *options_.eta_min : initial_lr() * *options_.eta_min_ratio;
    const double part = kPi / static_cast<double>(period);
    return (1 + std::cos(part * static_cast<double>(step))) /
               (1 + std::cos(part * static_cast<double>(step - 1))) * (lr - least) +
           least;
  }
  Value settings() const override {
    Value periods = Value::list(), weights = Value::list(), ends = Value::list();
    int64_t end = 0;
    for (const int64_t period : options_.periods) {
      periods.items().emplace_back(period);
      ends.items().emplace_back(end += period);
    }
    for (const double weight : options_.restart_weights) weights.items().emplace_back(weight);
    const auto number = [](const std::optional<double>& value) {
      return value ? Value(*value) : Value();
    };
    return Value::dict({{"periods", std::move(periods)},
                        {"restart_weights", std::move(weights)},
                        {"eta_min", number(options_.eta_min)},
                        {"eta_min_ratio", number(options_.eta_min_ratio)},
                        {"cumulative_periods", std::move(ends)}});
  }

  CosineRestartLrOptions options_;
};

/// The context of a schedule of the momentum.
ParamScheduler::Context for_momentum(ParamScheduler::Context context) {
  context.param = ParamScheduler::Param::momentum;
  return context;
}

template <class Scheduler, class O>
std::shared_ptr<ParamScheduler> make(const O& options, const ParamScheduler::Context& context,
                                     const char* name) {
  check_options(options, name);
  auto scheduler = std::make_shared<Scheduler>(options, context);
  scheduler->start();
  return scheduler;
}

}  // namespace

ParamScheduler::ParamScheduler(const ParamSchedulerOptions& options, const Context& context)
    : optimizer_(context.optimizer),
      param_(context.param),
      by_epoch_(options.by_epoch && !options.convert_to_iter_based),
      factor_(options.convert_to_iter_based ? context.epoch_length : 1),
      begin_(units(options.begin)),
      end_(units(options.end.value_or(options.by_epoch ? context.max_epochs : context.max_iters))),
      run_(by_epoch_ ? context.max_epochs : context.max_iters),
      base_value_(context.param == Param::lr ? context.optimizer->initial_lr()
                                             : context.optimizer->initial_momentum()) {
  if (begin_ < run_) return;
  doubt("begin", "the schedule begins after {} {}, but the run has {}, so it changes nothing",
        begin_, unit_name(), run_);
}

ParamScheduler::~ParamScheduler() = default;

void ParamScheduler::step() {
  ++global_step_;
  if (global_step_ < begin_ || global_step_ >= end_) return;
  ++last_step_;
  if (param_ == Param::lr) {
    optimizer_->set_lr(next(optimizer_->lr(), last_step_));
  } else {
    optimizer_->set_momentum(next(optimizer_->momentum(), last_step_));
  }
}

Value ParamScheduler::state_dict() const {
  Value state = Value::dict();
  state.set("param_name", param_name());
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

std::shared_ptr<ParamScheduler> make_constant_lr(const ConstantLrOptions& options,
                                                 const ParamScheduler::Context& context) {
  return make<ConstantLr>(options, context, "ConstantLR");
}

std::shared_ptr<ParamScheduler> make_exponential_lr(const ExponentialLrOptions& options,
                                                    const ParamScheduler::Context& context) {
  return make<ExponentialLr>(options, context, "ExponentialLR");
}

std::shared_ptr<ParamScheduler> make_poly_lr(const PolyLrOptions& options,
                                             const ParamScheduler::Context& context) {
  return make<PolyLr>(options, context, "PolyLR");
}

std::shared_ptr<ParamScheduler> make_one_cycle_lr(const OneCycleLrOptions& options,
                                                  const ParamScheduler::Context& context) {
  return make<OneCycleLr>(options, context, "OneCycleLR");
}

std::shared_ptr<ParamScheduler> make_cosine_restart_lr(const CosineRestartLrOptions& options,
                                                       const ParamScheduler::Context& context) {
  return make<CosineRestartLr>(options, context, "CosineRestartLR");
}

std::shared_ptr<ParamScheduler> make_swa_lr(const SwaLrOptions& options,
                                            const ParamScheduler::Context& context) {
  return make<SwaLr>(options, context, "SWALR");
}

std::shared_ptr<ParamScheduler> make_step_momentum(const StepLrOptions& options,
                                                   const ParamScheduler::Context& context) {
  return make<StepLr>(options, for_momentum(context), "StepMomentum");
}

std::shared_ptr<ParamScheduler> make_multi_step_momentum(const MultiStepLrOptions& options,
                                                         const ParamScheduler::Context& context) {
  return make<MultiStepLr>(options, for_momentum(context), "MultiStepMomentum");
}

std::shared_ptr<ParamScheduler> make_cosine_annealing_momentum(
    const CosineAnnealingLrOptions& options, const ParamScheduler::Context& context) {
  return make<CosineAnnealingLr>(options, for_momentum(context), "CosineAnnealingMomentum");
}

std::shared_ptr<ParamScheduler> make_linear_momentum(const LinearLrOptions& options,
                                                     const ParamScheduler::Context& context) {
  return make<LinearLr>(options, for_momentum(context), "LinearMomentum");
}

std::shared_ptr<ParamScheduler> make_constant_momentum(const ConstantLrOptions& options,
                                                       const ParamScheduler::Context& context) {
  return make<ConstantLr>(options, for_momentum(context), "ConstantMomentum");
}

std::shared_ptr<ParamScheduler> make_exponential_momentum(const ExponentialLrOptions& options,
                                                          const ParamScheduler::Context& context) {
  return make<ExponentialLr>(options, for_momentum(context), "ExponentialMomentum");
}

std::shared_ptr<ParamScheduler> make_poly_momentum(const PolyLrOptions& options,
                                                   const ParamScheduler::Context& context) {
  return make<PolyLr>(options, for_momentum(context), "PolyMomentum");
}

std::shared_ptr<ParamScheduler> make_cosine_restart_momentum(
    const CosineRestartLrOptions& options, const ParamScheduler::Context& context) {
  return make<CosineRestartLr>(options, for_momentum(context), "CosineRestartMomentum");
}

}  // namespace polyak
