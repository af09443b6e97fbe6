// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/options.h"
#include "polyak/core/export.h"
#include "polyak/trainer/optimizer.h"

namespace polyak {

/// The keys that every schedule takes. Units are epochs or, with by_epoch off, iterations.
struct POLYAK_API ParamSchedulerOptions : Options {
  bool by_epoch = true;  // units are epochs, otherwise iterations
  int64_t begin = 0;     // first unit of the schedule
  std::optional<int64_t> end;
  bool convert_to_iter_based = false;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Changes the learning rate or the momentum in the units begin <= unit < end, starting from the
/// current value, so that schedules can be chained or combined. The recursive formulas are
/// MMEngine's, and so is what the momentum is: of Adam and its kind the first of betas.
class POLYAK_API ParamScheduler {
 public:
  static constexpr const char* kKind = "parameter scheduler";  // for messages and `polyak list`
  /// The number that changes.
  enum class Param { lr, momentum };
  /// What a maker receives in addition to the options.
  struct Context {
    Optimizer* optimizer = nullptr;  // whose number changes; outlives the schedule
    int64_t epoch_length = 0;        // iterations in an epoch
    int64_t max_epochs = 0;          // of the run
    int64_t max_iters = 0;           // of the run
    Param param = Param::lr;         // set by the maker
  };
  virtual ~ParamScheduler();

  /// Whether its units are epochs; otherwise they are iterations.
  bool by_epoch() const { return by_epoch_; }
  /// Advances by one unit. The call for unit 0 is part of construction, see start().
  void step();
  /// Sets the value of unit 0. Called once, after construction.
  void start() { step(); }

  /// Settings without effect in this run, by key; usually empty.
  struct Doubt {
    const char* key;   // of the schedule's options
    std::string text;  // a sentence
  };
  /// All of them.
  const std::vector<Doubt>& doubts() const { return doubts_; }

  /// The attributes of MMEngine's scheduler of the same kind: counters, begin, end, base_values and
  /// settings().
  Value state_dict() const;
  /// Loads the counters and the base value; begin, end and settings stay as in the config.
  void load_state_dict(const Value& state);

 protected:
  /// @param context its optimizer must outlive the schedule
  ParamScheduler(const ParamSchedulerOptions& options, const Context& context);
  /// The value of unit `last_step` (0 at `begin`) after the value `lr` of the unit before.
  virtual double next(double lr, int64_t last_step) const = 0;
  /// The settings of this kind, a dict with MMEngine's names, which identify the kind.
  virtual Value settings() const { return Value::dict(); }
  /// The value that schedules start from: from the config or from a loaded state.
  double initial_lr() const { return base_value_; }
  /// Units between begin and end.
  int64_t length() const { return end_ - begin_; }
  /// A number of the config, converted to this schedule's units.
  int64_t units(int64_t value) const { return value * factor_; }
  /// The units between begin and end that the run has; at most length().
  int64_t units_in_run() const { return std::min(end_, run_) - begin_; }
  /// "rate" or "momentum", for messages.
  const char* value_name() const { return param_ == Param::lr ? "rate" : "momentum"; }
  /// "lr" or "momentum".
  const char* param_name() const { return param_ == Param::lr ? "lr" : "momentum"; }
  /// "epochs" or "iterations".
  const char* unit_name() const { return by_epoch_ ? "epochs" : "iterations"; }
  /// Adds to doubts().
  template <class... Args>
  void doubt(const char* key, fmt::format_string<Args...> text, Args&&... args) {
    doubts_.push_back({key, fmt::format(text, std::forward<Args>(args)...)});
  }
  /// The doubt of a schedule that has one unit in this run.
  void doubt_one_unit() {
    doubt("end", "the schedule has one unit of {}, so the {} never changes", unit_name(),
          value_name());
  }

 private:
  Optimizer* optimizer_;
  Param param_;
  bool by_epoch_;
  int64_t factor_ = 1;  // units in one unit of the config
  int64_t begin_;
  int64_t end_;
  int64_t run_;  // units in the run
  double base_value_;
  std::vector<Doubt> doubts_;
  int64_t last_step_ = -1;    // steps between begin and end
  int64_t global_step_ = -1;  // all steps
};

struct POLYAK_API StepLrOptions : ParamSchedulerOptions {
  int64_t step_size = 0;
  double gamma = 0.1;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API MultiStepLrOptions : ParamSchedulerOptions {
  std::vector<int64_t> milestones;
  double gamma = 0.1;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API CosineAnnealingLrOptions : ParamSchedulerOptions {
  std::optional<int64_t> T_max;
  double eta_min = 0;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API LinearLrOptions : ParamSchedulerOptions {
  double start_factor = 1.0 / 3;
  double end_factor = 1.0;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API ConstantLrOptions : ParamSchedulerOptions {
  double factor = 1.0 / 3;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API ExponentialLrOptions : ParamSchedulerOptions {
  double gamma = 0;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API PolyLrOptions : ParamSchedulerOptions {
  double power = 1;
  double eta_min = 0;
  void visit(OptionVisitor& visitor) override;
};

/// How a rate goes from one value to another: along half a cosine or a line.
enum class Annealing { cos, linear };
/// "cos" or "linear".
POLYAK_API std::string annealing_name(Annealing annealing);
POLYAK_API Annealing parse_annealing(const std::string& name);

struct POLYAK_API SwaLrOptions : ParamSchedulerOptions {
  double swa_lr = 0;
  int64_t anneal_epochs = 10;
  Annealing anneal_strategy = Annealing::cos;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API OneCycleLrOptions : ParamSchedulerOptions {
  double eta_max = 0;
  std::optional<int64_t> total_steps;
  double pct_start = 0.3;
  Annealing anneal_strategy = Annealing::cos;
  double div_factor = 25;
  double final_div_factor = 1e4;
  bool three_phase = false;
  void visit(OptionVisitor& visitor) override;
};

struct POLYAK_API CosineRestartLrOptions : ParamSchedulerOptions {
  std::vector<int64_t> periods;
  std::vector<double> restart_weights = {1};
  std::optional<double> eta_min;
  std::optional<double> eta_min_ratio;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// Multiplies by gamma every step_size units.
POLYAK_API std::shared_ptr<ParamScheduler> make_step_lr(const StepLrOptions& options,
                                                        const ParamScheduler::Context& context);
/// Multiplies by gamma at each milestone, counted from begin.
POLYAK_API std::shared_ptr<ParamScheduler> make_multi_step_lr(
    const MultiStepLrOptions& options, const ParamScheduler::Context& context);
/// eta_min + (value - eta_min) * (1 + cos(pi * t / T_max)) / 2 (Loshchilov and Hutter 2017,
/// "SGDR").
POLYAK_API std::shared_ptr<ParamScheduler> make_cosine_annealing_lr(
    const CosineAnnealingLrOptions& options, const ParamScheduler::Context& context);
/// lr * factor, where the factor changes linearly from start_factor at begin to end_factor at end -
/// 1.
POLYAK_API std::shared_ptr<ParamScheduler> make_linear_lr(const LinearLrOptions& options,
                                                          const ParamScheduler::Context& context);
/// Goes from the current rate to swa_lr in anneal_epochs units, and stays there, beside a
/// StochasticWeightAverage (torch.optim.swa_utils.SWALR).
POLYAK_API std::shared_ptr<ParamScheduler> make_swa_lr(const SwaLrOptions& options,
                                                       const ParamScheduler::Context& context);

/// lr * factor from begin to end - 2, and the rate that was there before from end - 1 on; without
/// an end, lr * factor throughout.
POLYAK_API std::shared_ptr<ParamScheduler> make_constant_lr(const ConstantLrOptions& options,
                                                            const ParamScheduler::Context& context);
/// Multiplies by gamma in each unit.
POLYAK_API std::shared_ptr<ParamScheduler> make_exponential_lr(
    const ExponentialLrOptions& options, const ParamScheduler::Context& context);
/// eta_min + (lr - eta_min) * (1 - t / (length - 1))^power, t counted from begin.
POLYAK_API std::shared_ptr<ParamScheduler> make_poly_lr(const PolyLrOptions& options,
                                                        const ParamScheduler::Context& context);
/// From eta_max / div_factor up to eta_max in pct_start of total_steps, and down to the first rate
/// / final_div_factor; three_phase: down to the first rate in as many steps, then on. Whatever rate
/// there was. (Smith and Topin 2017, "Super-convergence", arXiv:1708.07120; MMEngine's phases.)
POLYAK_API std::shared_ptr<ParamScheduler> make_one_cycle_lr(
    const OneCycleLrOptions& options, const ParamScheduler::Context& context);
/// A cosine from restart_weights[i] * the initial rate down to eta_min, or to eta_min_ratio * the
/// initial rate, in each of the periods; then the rate stays (Loshchilov and Hutter 2017, "SGDR").
POLYAK_API std::shared_ptr<ParamScheduler> make_cosine_restart_lr(
    const CosineRestartLrOptions& options, const ParamScheduler::Context& context);

/// The same formulas for the momentum.
POLYAK_API std::shared_ptr<ParamScheduler> make_step_momentum(
    const StepLrOptions& options, const ParamScheduler::Context& context);
POLYAK_API std::shared_ptr<ParamScheduler> make_multi_step_momentum(
    const MultiStepLrOptions& options, const ParamScheduler::Context& context);
POLYAK_API std::shared_ptr<ParamScheduler> make_cosine_annealing_momentum(
    const CosineAnnealingLrOptions& options, const ParamScheduler::Context& context);
POLYAK_API std::shared_ptr<ParamScheduler> make_linear_momentum(
    const LinearLrOptions& options, const ParamScheduler::Context& context);
POLYAK_API std::shared_ptr<ParamScheduler> make_constant_momentum(
    const ConstantLrOptions& options, const ParamScheduler::Context& context);
POLYAK_API std::shared_ptr<ParamScheduler> make_exponential_momentum(
    const ExponentialLrOptions& options, const ParamScheduler::Context& context);
POLYAK_API std::shared_ptr<ParamScheduler> make_poly_momentum(
    const PolyLrOptions& options, const ParamScheduler::Context& context);
POLYAK_API std::shared_ptr<ParamScheduler> make_cosine_restart_momentum(
    const CosineRestartLrOptions& options, const ParamScheduler::Context& context);

}  // namespace polyak
