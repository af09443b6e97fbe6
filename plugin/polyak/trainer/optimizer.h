// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/options.h"
#include "polyak/core/export.h"

namespace polyak {

/// Settings of a parameter: an entry of MMEngine's paramwise_cfg.
struct ParameterRule {
  double decay_mult = 1;      // factor of the weight decay
  bool lars_exclude = false;  // LARS uses the plain learning rate
  /// Whether parameters of both belong to one group.
  bool operator==(const ParameterRule& other) const {
    return decay_mult == other.decay_mult && lars_exclude == other.lars_exclude;
  }
};

/// Updates parameters from their gradients. Parameters with the same rule form a group.
class POLYAK_API Optimizer {
 public:
  static constexpr const char* kKind = "optimizer";  // for messages and `polyak list`
  /// What a maker receives in addition to the options.
  struct Context {
    std::vector<at::Tensor> parameters;     // all parameters to update
    std::vector<ParameterRule> rules = {};  // of each parameter; empty: the default for all
    std::vector<std::string> names = {};    // of each parameter; empty: unknown
  };
  virtual ~Optimizer();

  /// Updates the parameters that have a gradient.
  virtual void step() = 0;
  /// Drops all gradients.
  void zero_grad();
  /// The learning rate of the next step.
  virtual double lr() const = 0;
  virtual void set_lr(double lr) = 0;
  /// The learning rate of the config, which schedules start from.
  double initial_lr() const { return initial_lr_; }
  /// The momentum of the next step; of Adam and its kind the first of betas, as in MMEngine.
  /// @throws ConfigError unless it is overridden: there is no momentum
  virtual double momentum() const;
  virtual void set_momentum(double momentum);
  /// The momentum before schedules change it. From the first call on, state_dict() has it too.
  double initial_momentum();
  /// All parameters, group by group; groups and their parameters are in the order of the context.
  const std::vector<at::Tensor>& parameters() const { return parameters_; }
  /// Their names; empty if the context has none.
  const std::vector<std::string>& names() const { return names_; }
  /// The name that it is registered by; "" if unknown.
  virtual std::string type() const { return ""; }
  /// The required keys of the state of an updated parameter, for a group with these numbers;
  /// without them the optimizer cannot be resumed. Empty: nothing is required.
  virtual std::vector<std::string> state_names(const Value& /*group*/) const { return {}; }

  /// Drops the state of all parameters, as before the first step.
  virtual void clear_state() = 0;
  /// The result of Python's `optimizer.state_dict()`: {state: {index: {...}}, param_groups:
  /// [{...}]}, where indices count the parameters, and groups list names in `param_names` if they
  /// are known. Tensors share memory with the optimizer.
  Value state_dict() const;
  /// Whose numbers (lr, momentum, ...) are used after a state is loaded.
  enum class Numbers { saved, own };
  /// Loads a state dict of state_dict() or Python: the parameters' state and, unless the
  /// optimizer's own are kept, the groups' numbers.
  /// @throws CheckpointError as check_state_dict() does, without any change
  void load_state_dict(const Value& saved, Numbers numbers = Numbers::saved);
  /// @throws CheckpointError if the groups, their numbers of parameters or a shape differ
  void check_state_dict(const Value& saved) const;

 protected:
  /// Parameters with the same rule.
  struct Group {
    ParameterRule rule;                  // of each
    std::vector<at::Tensor> parameters;  // in the order of the context
    std::vector<std::string> names;      // of each; empty: unknown
  };

  /// @param lr the learning rate of the config
  Optimizer(const Context& context, double lr);
  /// The groups, in the order of their first parameters.
  const std::vector<Group>& groups() const { return groups_; }
  /// A group's numbers under Python's names.
  virtual Value group(size_t index) const = 0;
  virtual void load_group(size_t index, const Value& group) = 0;
  /// The state of one parameter, a dict; empty before its first step.
  virtual Value state_of(const at::Tensor& parameter) const = 0;
  virtual void load_state_of(const at::Tensor& parameter, const Value& state) = 0;

 private:
  std::vector<Group> groups_;
  std::vector<at::Tensor> parameters_;
  std::vector<std::string> names_;
  double initial_lr_;
  std::optional<double> initial_momentum_;  // once it is scheduled
};

struct POLYAK_API SgdOptions : Options {
  double lr = 0;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

struct POLYAK_API AdamOptions : Options {
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  bool amsgrad = false;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

struct POLYAK_API AdamWOptions : AdamOptions {
  AdamWOptions() { weight_decay = 1e-2; }
};

struct POLYAK_API LarsOptions : Options {
  double lr = 0;
  double momentum = 0;
  double weight_decay = 0;
  double dampening = 0;
  double eta = 0.001;
  bool nesterov = false;
  double eps = 1e-8;
  void visit(OptionVisitor& visitor) override;
  void validate() const override;
};

/// The optimizers of torch::optim with these names.
POLYAK_API std::shared_ptr<Optimizer> make_sgd(const SgdOptions& options,
                                               const Optimizer::Context& context);
POLYAK_API std::shared_ptr<Optimizer> make_adam(const AdamOptions& options,
                                                const Optimizer::Context& context);
POLYAK_API std::shared_ptr<Optimizer> make_adamw(const AdamWOptions& options,
                                                 const Optimizer::Context& context);
/// SGD with the rate of each parameter scaled by eta |w| / (|g| + weight_decay |w| + eps) (You et
/// al. 2017, "Large Batch Training of Convolutional Networks"), like mmpretrain's: the rate is
/// inside the momentum. A parameter uses the plain rate if its rule has lars_exclude or its weights
/// or gradient are all 0.
POLYAK_API std::shared_ptr<Optimizer> make_lars(const LarsOptions& options,
                                                const Optimizer::Context& context);

}  // namespace polyak
