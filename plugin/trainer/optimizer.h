#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/config/options.h"
#include "polyak/core/export.h"

namespace polyak {

/// Changes parameters from their gradients. All parameters form one group.
class POLYAK_API Optimizer {
 public:
  static constexpr const char* kKind = "optimizer";
  struct Context {
    std::vector<at::Tensor> parameters;
  };
  virtual ~Optimizer();

  /// One step over the parameters that have a gradient.
  virtual void step() = 0;
  /// Drops all gradients.
  void zero_grad();
  virtual double lr() const = 0;
  virtual void set_lr(double lr) = 0;
  /// The learning rate of the config: where schedules start.
  double initial_lr() const { return initial_lr_; }
  const std::vector<at::Tensor>& parameters() const { return parameters_; }

  /// What Python's `optimizer.state_dict()` gives: {state: {index: {...}}, param_groups: [{...}]},
  /// where indices count the parameters. Tensors are handles, not copies.
  Value state_dict() const;
  /// Takes state and the group's numbers (lr, momentum, ...) from what state_dict() or Python gave.
  /// @throws CheckpointError when the number of parameters or a shape differs; nothing changes then
  void load_state_dict(const Value& saved);

 protected:
  Optimizer(std::vector<at::Tensor> parameters, double lr);
  /// The group's numbers under Python's names.
  virtual Value group() const = 0;
  virtual void load_group(const Value& group) = 0;
  /// The state of one parameter, a dict; empty before its first step.
  virtual Value state_of(const at::Tensor& parameter) const = 0;
  virtual void load_state_of(const at::Tensor& parameter, const Value& state) = 0;
  virtual void clear_state() = 0;

 private:
  std::vector<at::Tensor> parameters_;
  double initial_lr_;
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

POLYAK_API std::shared_ptr<Optimizer> make_sgd(const SgdOptions& options,
                                               const Optimizer::Context& context);
POLYAK_API std::shared_ptr<Optimizer> make_adam(const AdamOptions& options,
                                                const Optimizer::Context& context);
POLYAK_API std::shared_ptr<Optimizer> make_adamw(const AdamWOptions& options,
                                                 const Optimizer::Context& context);

}  // namespace polyak
