#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polyak/averaging/average_options.h"
#include "polyak/averaging/model.h"
#include "polyak/core/error.h"
#include "polyak/core/export.h"

namespace polyak {

/// Makes an empty module of the model's class, for models that cannot be cloned.
using ModuleFactory = std::function<std::shared_ptr<torch::nn::Module>()>;

/// Averaged weights are in the model until this object goes, whatever is thrown meanwhile. Movable.
class POLYAK_API SwapGuard {
 public:
  SwapGuard() = default;  // guards nothing
  SwapGuard(SwapGuard&&) noexcept = default;
  SwapGuard& operator=(SwapGuard&& other) noexcept;
  ~SwapGuard();
  /// Puts the raw weights back now.
  void release() noexcept;

 private:
  friend class AveragedModel;
  struct State;
  explicit SwapGuard(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;
};

/// What did not fit when values were taken in by name.
struct LoadReport {
  std::vector<std::string> missing;     // averaged, but not given
  std::vector<std::string> unexpected;  // given, but not averaged
  std::vector<std::string> mismatched;  // "name: [2, 3] instead of [2, 4]"
  bool clean() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
  /// One line that lists them, for a message.
  POLYAK_API std::string text() const;
};

/// An average of a model's weights over the course of training: `avg += weight(k) * (source - avg)`
/// at every update. Subclasses differ only in their weight.
///
/// The average holds one tensor for each parameter and buffer of the model, by name, in the model's
/// dtype, or in float32 where the model is float16 or bfloat16 (an average in half precision stops
/// moving at usual momenta). Integer tensors are copied, never averaged. A tensor under two names
/// is averaged once.
///
/// It is a torch::nn::Module with the buffer `steps` (int64, on the CPU) and the child `module`, a
/// copy of the model with the averaged weights, and can be registered in another module. A model
/// that cannot be cloned still averages, swaps and saves; only module() needs a copy that runs.
///
/// Not safe from several threads at once. The model must outlive every call that is given it.
class POLYAK_API AveragedModel : public torch::nn::Module {
 public:
  static constexpr const char* kKind = "average";
  /// What a maker of averages receives beside the options.
  struct Context {
    std::optional<Model> model;
    std::optional<int64_t> max_iters;  // updates that the run will make, where it is known
  };

  ~AveragedModel() override;

  /// Takes the model's present weights in. The first call copies them; call k (counted from 0)
  /// averages with weight(k) when k is a multiple of `interval`. Call it once after each optimizer
  /// step.
  /// @throws Error when the model lacks a tensor that is averaged, when a shape differs, or while
  /// the
  ///   averaged weights are swapped in.
  void update_parameters(const Model& model);

  /// Calls of update_parameters so far.
  int64_t steps() const;
  /// The weight of the new value at call k >= 1, whatever the interval; 1 at k = 0, since it
  /// copies.
  double weight(int64_t k) const;
  /// The rule on one tensor, in place: `averaged += rule(k) * (source - averaged)`, with the
  /// formula's own value at k = 0 too (the method `avg_func` of MMEngine's averaged models).
  void avg_func(const at::Tensor& averaged, const at::Tensor& source, int64_t k) const;

  /// Puts the averaged weights into the model until the guard goes, by exchanging storage, not
  /// values. Before the first update nothing changes: the average is a copy until then. A swap
  /// inside a swap does nothing. Guards of several averages over one model go in reverse order.
  /// Optimizer state, tied tensors and handles stay valid. A backward
  /// pass whose forward ran before the swap fails with LibTorch's "modified by an inplace
  /// operation".
  [[nodiscard]] SwapGuard swap(const Model& model);
  bool is_swapped() const;
  /// The raw weights that an active swap put aside, by name; empty without one.
  std::vector<NamedTensor> swapped_out() const;

  /// The averaged parameters and buffers under the model's own names and order; float32 for those
  /// of a half precision model. Handles to the averages, not copies.
  torch::OrderedDict<std::string, at::Tensor> named_averages() const;
  /// The same in the model's dtypes: what a checkpoint stores.
  std::vector<NamedTensor> state();
  /// Takes values in by name and sets steps. What does not fit stays as it was and is reported.
  LoadReport load_state(const std::vector<NamedTensor>& values, int64_t steps);
  /// Becomes a copy of the model again, with no update counted.
  void reset(const Model& model);
  /// Copies the averaged values into the model (parameters and buffers).
  void copy_to(const Model& model);
  /// Looks the model's tensors up again: after parameters were added or replaced.
  void rebind(const Model& model);

  /// The copy of the model that holds the averaged weights, for forward passes.
  /// @throws Error when the model could not be cloned; the message names its class and the ways
  /// out.
  std::shared_ptr<torch::nn::Module> module();
  template <class Net>
  std::shared_ptr<Net> module() {
    auto typed = std::dynamic_pointer_cast<Net>(module());
    if (!typed) throw_wrong_module();
    return typed;
  }

  /// The rule's name and options, as a config would give them.
  virtual std::string rule_name() const = 0;
  virtual Node rule_options() const = 0;

  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;
  void save(torch::serialize::OutputArchive& archive) const override;
  /// Of a half precision model the archive holds half precision values, and the average goes on
  /// from those.
  void load(torch::serialize::InputArchive& archive) override;

 protected:
  struct Settings {
    int64_t interval = 1;
    bool update_buffers = false;
    std::optional<std::string> device;
  };
  /// Checks a rule's options and gives what concerns this class. @throws ConfigError
  template <class O>
  static Settings checked(const O& options, const char* rule_name) {
    check_options(options, rule_name);
    if constexpr (std::is_base_of_v<MomentumOptions<O>, O>) {
      warn_if_decay(options.momentum(), rule_name);
    }
    return {options.interval(), options.update_buffers(), options.device()};
  }
  AveragedModel(const Model& model, Settings settings, ModuleFactory factory = nullptr);

  /// The formula: the weight of the new value at call k >= 0.
  virtual double rule(int64_t k) const = 0;

 private:
  struct Slot;
  struct Plan;
  static void warn_if_decay(double momentum, const char* rule_name);
  void bind(const Model& model);
  void build_slots(const Model& model, const std::vector<NamedTensor>& tensors);
  void settle_precision();
  void refresh_module() const;
  void move(const std::function<at::Tensor(const at::Tensor&)>& moved);
  void average(double weight);
  bool plan_is_current() const;
  void make_plan();
  [[noreturn]] void throw_wrong_module() const;

  Settings settings_;
  ModuleFactory factory_;
  std::string model_class_;
  std::string clone_error_;  // why there is no module that runs; empty when there is one
  std::shared_ptr<torch::nn::Module> module_;
  at::Tensor steps_;
  std::vector<Slot> slots_;
  std::vector<std::pair<std::string, size_t>>
      names_;  // every name in the model's order, and its slot
  std::unique_ptr<Plan> plan_;
  const void* bound_to_ = nullptr;
  std::weak_ptr<SwapGuard::State> swap_;
};

}  // namespace polyak
