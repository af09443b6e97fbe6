// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polyak/checkpoint/value.h"
#include "polyak/core/export.h"

namespace polyak {

/// A class of torch::optim that PyTorch has too, and the entries of Python's
/// `optimizer.state_dict()` for it. Options and states are those of this class.
class POLYAK_API PythonClass {
 public:
  using Options = torch::optim::OptimizerOptions;
  using State = torch::optim::OptimizerParamState;
  virtual ~PythonClass();

  /// Its name in both: "Adam".
  virtual const char* name() const = 0;
  /// Whether this is exactly the class of an optimizer and of all its options and states. A class
  /// derived from it may have more to save.
  virtual bool is_class_of(const torch::optim::Optimizer& optimizer) const = 0;

  /// The numbers of a group under Python's names; without `params`.
  virtual Value group(const Options& options) const = 0;
  /// What Python's groups have besides: settings that LibTorch does not have, at the value that
  /// says so, such as `maximize: False`.
  virtual Value defaults() const = 0;
  /// Options with the numbers of a saved group.
  /// @throws CheckpointError for a number that is missing or of another type
  virtual std::unique_ptr<Options> read_group(const Value& group) const = 0;
  /// Copies all numbers.
  virtual void assign(Options& target, const Options& source) const = 0;

  /// The keys that the state of an updated parameter must have, in a group with these numbers.
  virtual std::vector<std::string> state_names(const Value& group) const = 0;
  /// The state of a parameter, a dict whose tensors share memory with it; empty if nothing is set.
  virtual Value state(const State& state) const = 0;
  /// A saved state with copies of its tensors, in the dtype and on the device of the parameter.
  /// @return null if the entry is empty; then the parameter begins with new_state()
  /// @throws CheckpointError for a tensor or a count that is missing or of another type
  virtual std::unique_ptr<State> read_state(const at::Tensor& parameter, const Value& entry,
                                            const Options& options) const = 0;
  /// The state of a parameter before its first step; null where the step makes it.
  virtual std::unique_ptr<State> new_state(const at::Tensor& parameter,
                                           const Options& options) const = 0;
};

/// The class of an optimizer in Python; null if PyTorch has none that keeps the same state, as for
/// LBFGS and a program's own classes, also those derived from a class of torch::optim.
POLYAK_API const PythonClass* python_class_of(const torch::optim::Optimizer& optimizer);

/// An optimizer's states by parameter.
using TorchStates = std::decay_t<decltype(std::declval<torch::optim::Optimizer&>().state())>;
/// The key of a parameter's state: its address, or up to LibTorch 2.0 the address as text.
POLYAK_API TorchStates::key_type state_key(const at::Tensor& parameter);

}  // namespace polyak
