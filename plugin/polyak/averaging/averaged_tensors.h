// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/ordered_dict.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "polyak/averaging/average_coverage.h"
#include "polyak/averaging/layer_changes.h"
#include "polyak/averaging/load_report.h"
#include "polyak/averaging/model.h"
#include "polyak/averaging/process_group.h"
#include "polyak/averaging/shards.h"
#include "polyak/averaging/slot.h"
#include "polyak/averaging/swap_state.h"
#include "polyak/rules/average_scope.h"
#include "polyak/rules/precision.h"

namespace polyak {

/// The tensors of an average: a slot for each distinct tensor of the model, and the model's names
/// for them, in its order. Tied names share a slot. Values are loaded and returned by these names.
///
/// Call it with gradients disabled (NoGradGuard), from one thread at a time.
class AveragedTensors {
 public:
  struct Settings {
    bool update_buffers;
    Precision precision;
    std::optional<c10::Device> device;  // empty: the devices of the model's tensors
    AverageScope scope = {};
  };
  /// @throws OptionError for an invalid scope
  explicit AveragedTensors(Settings settings);

  const Slots& slots() const { return *slots_; }
  /// For owners that need the slots for as long as they live.
  std::shared_ptr<const Slots> shared_slots() const { return slots_; }
  /// Changes whenever the slots hold other tensors. Data derived from an earlier revision may
  /// describe tensors that are gone.
  uint64_t revision() const { return revision_; }
  bool empty() const { return slots_->empty(); }

  /// Looks up the model's tensors by name.
  /// @param same_model whether it is the model that the slots are of, whose layers may have changed
  /// @return whether names, shapes and ties are the same as before; if not, nothing changes
  /// @throws Error, without changes, if a tensor has another kind of numbers than its average; of
  ///   another model also if it lacks an averaged tensor or one has another shape
  bool rebind(const std::vector<NamedTensor>& tensors, const std::string& model_class,
              bool same_model);
  /// Rebuilds the slots: pairs each distinct tensor with the tensor of its name in `copy`, which
  /// gets its value. Averages of the same tensors, or else under the same names, continue if the
  /// shape is the same.
  /// @throws Error, without changes, if the copy lacks a name
  /// @throws ConfigError, without changes, if the scope does not fit the model's names; only the
  ///   first time, since layers may go later
  void rebuild(const std::vector<NamedTensor>& tensors, const std::string& model_class,
               std::shared_ptr<torch::nn::Module> copy);

  /// What rebind() and rebuild() found since the last call.
  LayerChanges take_changes() { return std::exchange(changes_, {}); }

  /// Whether a tensor of the model has another shape than its average.
  bool is_reshaped() const;
  /// @throws Error if a tensor of the model has another kind of numbers than its average
  void check_kinds() const;
  /// For a swap or a copy that writes values into the model.
  /// @throws Error for an expanded tensor; the message states `what` cannot be done and what to use
  ///   `instead`
  void check_writable(const char* what, const char* instead) const;

  /// Gives the averaged module the model's dtypes and devices if those changed.
  void follow_model();
  /// Gives each average the dtype that belongs to its tensor in the averaged module.
  void settle_precision();
  /// Keeps only the part of process `rank` of the averaged parameters.
  /// @return the slots that are cut
  std::vector<size_t> shard(int64_t rank, int64_t processes);
  /// Makes them whole again; buffers get those of process 0. @throws ProcessGroupError
  void gather(ProcessGroup& processes);
  bool is_sharded() const { return layout_.has_value(); }
  /// How they are cut, while they are.
  const ShardLayout& layout() const { return *layout_; }
  /// Takes other tensors of the same names, sizes, dtypes and devices in place of the model's,
  /// while it holds parts. @return whether they fit; if not, nothing changes. Processes find the
  /// same, whatever memory their tensors have.
  bool follow_in_parts(const std::vector<NamedTensor>& tensors);
  /// Whether these are the tensors that the slots have, under the same names.
  bool is_bound_to(const std::vector<NamedTensor>& tensors) const;

  /// Whether settle_frozen() has something to do.
  bool has_to_settle() const;
  /// Whether settle_frozen() may have something to do.
  bool watches_gradients() const { return watches_gradients_; }
  /// Starts averages of tensors that are no longer frozen as copies, and shares loaded ones that
  /// are frozen and have the model's value.
  void settle_frozen();
  /// Gives each shared tensor of the averaged module a storage of its own until follow_model(), so
  /// that it can be written. Frozen ones keep theirs until settle_frozen().
  void unshare();
  /// Moves or casts the averaged module's tensors; ties stay.
  void move(const std::function<at::Tensor(const at::Tensor&)>& moved);

  /// Copies the averaged module, which others wrote, into averages that are stored separately.
  void sync_from_module();
  /// Copies averages that are stored separately into the averaged module.
  void refresh_module();
  /// Copies the model's tensors into the averages.
  void copy_from_model();
  void copy_to_model() const;
  /// Puts the averaged module's tensors into the model, and sets the model's own aside.
  void put_into_model(SwapState& state) const;
  /// What put_into_model() set aside.
  std::vector<NamedTensor> raw(const SwapState& state) const;

  torch::OrderedDict<std::string, at::Tensor> averages() const;
  AverageCoverage coverage() const;
  std::vector<NamedTensor> module_tensors() const;
  LoadReport load(const std::vector<NamedTensor>& values);
  std::vector<NamedTensor> residuals() const;
  /// Loads those that fit.
  void load_residuals(const std::vector<NamedTensor>& values);

  /// The name of a tensor of the model that is averaged and holds a NaN or an infinity, or null.
  const std::string* find_nonfinite() const;
  /// The name of such an average, or null. Reads each average once, on LibTorch's threads.
  const std::string* find_nonfinite_average() const;

 private:
  using Names = SlotNames;

  TensorMode mode_of(const NamedTensor& item) const;
  void set_frozen(Slot& slot, const Slot* before) const;
  void check_scope(const std::vector<NamedTensor>& tensors) const;
  bool is_at_home(const at::Tensor& source) const;
  bool follow_shared(Slot& slot) const;
  bool could_follow(const Slot& slot, const at::Tensor& source) const;
  void check_kind(const Slot& slot, const at::Tensor& source) const;
  void keep_averages(const Slots& before, const Names& names_before);

  Settings settings_;
  std::optional<ScopeMatcher> scope_;  // empty: covers all
  bool scope_checked_ = false;
  LayerChanges changes_;
  bool watches_gradients_ = false;
  std::optional<ShardLayout> layout_;  // of the slots with a part
  std::shared_ptr<Slots> slots_ = std::make_shared<Slots>();
  Names names_;  // every name in the model's order, and its slot
  uint64_t revision_ = 0;
};

}  // namespace polyak
