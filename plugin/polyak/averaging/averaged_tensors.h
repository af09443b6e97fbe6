// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/ordered_dict.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/load_report.h"
#include "polyak/averaging/model.h"
#include "polyak/averaging/slot.h"
#include "polyak/averaging/swap_state.h"
#include "polyak/rules/precision.h"

namespace polyak {

/// The tensors of an average: a slot for each distinct tensor of the model, and the model's names
/// for them, in its order. Tied names share a slot. Values come in and go out by those names.
///
/// Calls are made without gradients (NoGradGuard), and by one thread at a time.
class AveragedTensors {
 public:
  struct Settings {
    bool update_buffers;
    Precision precision;
    std::optional<c10::Device> device;  // none: where the model's tensors are
  };
  explicit AveragedTensors(Settings settings) : settings_(settings) {}

  const Slots& slots() const { return *slots_; }
  /// For who needs the slots for as long as it lives.
  std::shared_ptr<const Slots> shared_slots() const { return slots_; }
  /// Another number after each change of which tensors the slots hold: what was made of them before
  /// describes tensors that may be gone.
  uint64_t revision() const { return revision_; }
  bool empty() const { return slots_->empty(); }

  /// Looks the model's tensors up by their names.
  /// @return whether they are the same names, tied as before; if not, nothing changed
  /// @throws Error, and nothing changed, when the model lacks one that is averaged, or one has
  ///   another shape or kind of numbers
  bool rebind(const std::vector<NamedTensor>& tensors, const std::string& model_class);
  /// Makes the slots anew: each distinct tensor with the tensor of its name in `copy`, which gets
  /// its value. Averages that were there under one of the names go on.
  /// @throws Error, and nothing changed, when the copy lacks a name
  void rebuild(const std::vector<NamedTensor>& tensors, const std::string& model_class,
               std::shared_ptr<torch::nn::Module> copy);

  /// @throws Error when a tensor of the model has another shape or kind of numbers than its average
  void check_fit() const;
  /// For a swap or a copy that writes values into the model.
  /// @throws Error for an expanded tensor, with `what` cannot be done and what would do `instead`
  void check_writable(const char* what, const char* instead) const;

  /// Gives the averaged module the model's dtypes and devices where those changed.
  void follow_model();
  /// Gives each average the dtype that it should have beside the averaged module's tensor.
  void settle_precision();
  /// Puts the averaged module's tensors elsewhere, or into other dtypes; ties stay.
  void move(const std::function<at::Tensor(const at::Tensor&)>& moved);

  /// Averages that are kept apart take the values of the averaged module, into which others wrote.
  void sync_from_module();
  /// The averaged module takes the values of averages that are kept apart.
  void refresh_module();
  /// Each average becomes its model's tensor.
  void copy_from_model();
  void copy_to_model() const;
  /// Puts the averaged module's tensors into the model, and the model's own aside.
  void put_into_model(SwapState& state) const;
  /// What put_into_model() put aside.
  std::vector<NamedTensor> raw(const SwapState& state) const;

  torch::OrderedDict<std::string, at::Tensor> averages() const;
  std::vector<NamedTensor> module_tensors() const;
  LoadReport load(const std::vector<NamedTensor>& values);
  std::vector<NamedTensor> residuals() const;
  /// Takes those that fit.
  void load_residuals(const std::vector<NamedTensor>& values);

  /// The name of a tensor that is averaged and holds a NaN or an infinity; null without one.
  const std::string* find_nonfinite() const;

 private:
  using Names = std::vector<std::pair<std::string, size_t>>;

  bool could_follow(const Slot& slot, const at::Tensor& source) const;
  void check_kind(const Slot& slot, const at::Tensor& source) const;
  void keep_averages(const Slots& slots, const Names& names);

  Settings settings_;
  std::shared_ptr<Slots> slots_ = std::make_shared<Slots>();
  Names names_;  // every name in the model's order, and its slot
  uint64_t revision_ = 0;
};

}  // namespace polyak
