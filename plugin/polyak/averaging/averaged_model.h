// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/ArrayRef.h>
#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "polyak/averaging/average_coverage.h"
#include "polyak/averaging/load_report.h"
#include "polyak/averaging/model.h"
#include "polyak/averaging/refreshable.h"
#include "polyak/averaging/swap_guard.h"
#include "polyak/core/error.h"
#include "polyak/core/export.h"
#include "polyak/rules/average_options.h"

namespace polyak {

struct AverageCore;
struct AverageState;
class ProcessGroup;
class TensorRule;

/// Makes an empty module of the model's class, for models that cannot be cloned.
using ModuleFactory = std::function<std::shared_ptr<torch::nn::Module>()>;

/// An average of a model's weights over the course of training: `avg += weight(k) * (source - avg)`
/// at every update. Subclasses differ only in their weight.
///
/// The average holds one tensor for each parameter and buffer of the model, by name, in the model's
/// dtype, or in float32 if the model is float16 or bfloat16 (an average in half precision stops
/// moving at usual momenta). The option `precision` keeps more. Integer tensors are copied, never
/// averaged. A tensor with two names is averaged once. If the model is cast or moved later, the
/// average follows it; to() on the average alone holds until the model is cast again.
///
/// On the CPU, an update of dense real tensors reads every byte once, on all threads of LibTorch's
/// pool, and does not allocate. Its results are the same bits for any number of threads and any
/// processor (in the default floating-point mode). LibTorch's operations average other tensors.
///
/// It is a torch::nn::Module with the buffer `steps` (int64, on the CPU) and the child `module`, a
/// copy of the model with the averaged weights, and can be registered in another module. When
/// values are copied into all its tensors, as by loading a state dict, the average continues from
/// them; it detects this by a different count in `steps`. A model that cannot be cloned can still
/// be averaged, swapped and saved; only module() needs a copy that can run.
///
/// Not thread-safe. The model must outlive every call that receives it.
class POLYAK_API AveragedModel : public torch::nn::Module, public Refreshable {
 public:
  static constexpr const char* kKind = "average";  // for messages and `polyak list`
  /// What the factory of an average receives in addition to the options.
  struct Context {
    std::optional<ModelRef> model;     // always set
    std::optional<int64_t> max_iters;  // updates that the run will make, if known
    RunLengths lengths = {};           // what options in other units than updates are relative to
  };

  ~AveragedModel() override;

  /// Updates the average with the model's current weights. The first call copies them; call k
  /// (counted from 0) averages with weight(k) if k is a multiple of `interval`. Call it once after
  /// each optimizer step.
  ///
  /// Layers may come and go. A tensor that was added to the model since the last update starts as a
  /// copy, and one that was removed leaves the average. One that was replaced under its name
  /// continues its average if the shape is the same, and else starts as a copy; a tensor that got
  /// another name continues. A line of the log names them. A list of tensors does not show this,
  /// nor do integer buffers of TorchScript, which code reassigns in each forward pass: only
  /// rebind() looks those up.
  /// @throws Error if another model than before lacks an averaged tensor or has another shape, if a
  ///   kind of numbers (real, complex, integer) differs, or while the averaged weights are swapped
  ///   in
  void update_parameters(const ModelRef& model);

  /// With `device: cpu` and a model on a GPU, an update copies the weights while the GPU does other
  /// work, and averages on its own thread; every method of this class waits for that. By default,
  /// later work on the GPU's current stream waits until the weights are copied. With `defer` it
  /// does not wait; the caller must then call fence() on the stream that will write the weights,
  /// before it writes them (before optimizer.step()).
  void defer_fence(bool defer);
  void fence();

  /// For CUDA graphs. update_parameters and update_together can be captured after the first update,
  /// which copies. Captured calls neither count nor set a weight. Before each replay, this function
  /// sets, on the current stream, the weight of the update that the replay makes, and counts it;
  /// each average of an update_together needs its own call. The graph works on the captured
  /// tensors: swap with SwapMode::copy. Requires a build with our CUDA kernel, and a model and an
  /// average of dense real tensors on GPUs; capturing anything else throws.
  /// @throws Error if no update was captured, or the model's tensors were moved since
  void prepare_replay();

  /// The processes that train the same model, for the options `shard` and `verify`; null: this one
  /// alone. All of them then make the same calls of this average in the same order. Set it before
  /// the first update.
  /// @param same_buffers whether buffers too have the same values in all of them, and not only
  ///   parameters
  void set_process_group(std::shared_ptr<ProcessGroup> processes, bool same_buffers = false);
  /// Whether this process only has its part of the average at the moment.
  bool is_sharded() const;

  /// Samples of an optimizer step, for `base_batch_size`. 0: unknown.
  void set_batch_size(int64_t samples);
  /// Whether the average holds anything but the weights that it starts with: false before the first
  /// update, and before `begin`.
  bool has_started() const;
  /// Updates that only count, before the one with which the average starts: `begin` and the like.
  int64_t begins_after() const;
  /// Whether the last update wrote the average into the model (`write_back`).
  bool wrote_back() const;
  /// Whether it did, and the options say that the optimizer's state does not fit the model any
  /// more.
  bool wants_optimizer_reset() const;

  /// Calls of update_parameters so far, except those that skip_nonfinite skipped.
  int64_t steps() const;
  /// Calls that changed nothing because the model held a NaN or an infinity (skip_nonfinite).
  int64_t skipped() const;
  /// The name of an averaged tensor that holds a NaN or an infinity, or "". Such an average stays
  /// so. Reads the averages once, a third of what an update moves; waits for a GPU. "" before the
  /// first update, and while the averaged weights are swapped in.
  std::string find_nonfinite() const;
  /// The weight of the new value at call k >= 1, for any interval; 1 at k = 0, which copies, unless
  /// the average starts with the initial weights.
  double weight(int64_t k) const;
  /// Applies the rule to one tensor, in place: `averaged += rule(k) * (source - averaged)`, with
  /// the formula's own value at k = 0 too (the method `avg_func` of MMEngine's averaged models).
  void avg_func(const at::Tensor& averaged, const at::Tensor& source, int64_t k) const;

  /// Puts the averaged weights into the model until the guard is destroyed. Exchanges storage, not
  /// values, unless `mode` says otherwise or the model is a list of tensors (an average in another
  /// dtype than the model's is rounded to it first). Before the first update nothing changes,
  /// because the average is still a copy. A swap inside a swap does nothing. Release guards of
  /// several averages over one model in reverse order. Optimizer state, tied tensors and handles
  /// stay valid. A backward pass whose forward pass ran before the swap fails with LibTorch's
  /// "modified by an inplace operation".
  [[nodiscard]] SwapGuard swap(const ModelRef& model, SwapMode mode = SwapMode::exchange);
  bool is_swapped() const;
  /// The raw weights that an active swap set aside, by name; empty without a swap.
  std::vector<NamedTensor> swapped_out() const;

  /// The averaged parameters and buffers with the model's names and order; float32 for a half
  /// precision model, float64 if the option `precision` says so. Handles to the averages, not
  /// copies; with `shard`, they are whole and valid until the next update.
  torch::OrderedDict<std::string, at::Tensor> named_averages() const;
  /// What the average does with each of the model's tensors, and the memory that takes.
  AverageCoverage coverage() const;
  /// The same in the model's dtypes: what a checkpoint stores.
  std::vector<NamedTensor> state();
  /// Everything that an average needs to continue with the same bits, as handles to the average's
  /// tensors. The struct is in polyak/averaging/average_state.h.
  AverageState state_dict();
  /// Restores a state by name: count, values, and the precision beyond the model's dtype. Tensors
  /// that do not fit keep their values and are reported. The average keeps its own rule and
  /// options, and warns if the state is from another rule.
  /// @throws Error for a negative count
  LoadReport load_state_dict(const AverageState& state);
  /// Loads values by name and sets steps. Tensors that do not fit keep their values and are
  /// reported.
  LoadReport load_state(const std::vector<NamedTensor>& values, int64_t steps);
  /// With `precision: compensated`, the part of the averages that float32 cannot hold: int16
  /// tensors of the same shapes, in units of 2^-16 of the last place. Empty otherwise. For an exact
  /// resume, load it after load_state().
  std::vector<NamedTensor> compensation() const;
  void load_compensation(const std::vector<NamedTensor>& values);
  /// Makes the average a copy of the model again, with a count of 0.
  void reset(const ModelRef& model);
  /// Copies the averaged values into the model (parameters and buffers).
  void copy_to(const ModelRef& model);
  /// Looks up the model's tensors again, as an update does for a model whose layers changed.
  void rebind(const ModelRef& model);

  /// The copy of the model that holds the averaged weights, for forward passes.
  /// @throws Error if the model could not be cloned; the message names its class and the
  ///   alternatives
  std::shared_ptr<torch::nn::Module> module();
  /// The same as a `Net`. @throws Error also for a model of another class
  template <class Net>
  std::shared_ptr<Net> module() {
    auto typed = std::dynamic_pointer_cast<Net>(module());
    if (!typed) throw_wrong_module();
    return typed;
  }

  /// Copies averages that are kept in another dtype into the tensors of the child `module`, for
  /// code that reads those as the tensors of a larger model. ModelRef::tensors() calls it; an
  /// update of an average of the larger model does not.
  void refresh_module() const override;

  /// The rule's name and options, as in a config.
  virtual std::string rule_name() const = 0;
  virtual Node rule_options() const = 0;
  /// The options that it has without any setting; null: unknown.
  virtual Node rule_defaults() const { return {}; }

  /// Like those of torch::nn::Module, for the average alone.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;
  void save(torch::serialize::OutputArchive& archive) const override;
  /// The archive holds values in the model's dtype, and the average continues from those. The extra
  /// precision of float32 for a half precision model, of `precision: float64` and of `compensated`
  /// is lost.
  void load(torch::serialize::InputArchive& archive) override;

 protected:
  /// The options that every average has; see AverageOptions.
  struct Settings {
    int64_t interval = 1;                             // AverageOptions::interval()
    bool update_buffers = false;                      // AverageOptions::update_buffers()
    std::optional<c10::Device> device;                // AverageOptions::device()
    Precision precision = Precision::standard;        // AverageOptions::precision()
    bool skip_nonfinite = false;                      // AverageOptions::skip_nonfinite()
    AverageScope scope = {};                          // AverageOptions::scope()
    AverageStart start = AverageStart::first_update;  // AverageOptions::start()
    int64_t begins_after = 0;                         // AverageOptions::begins_after()
    std::optional<WriteBackOptions> write_back;       // AverageOptions::write_back()
    bool needs_batch_size = false;                    // AverageOptions::base_batch_size()
    bool shard = false;                               // AverageOptions::shard()
    int64_t verify = 0;                               // AverageOptions::verify()
    std::shared_ptr<TensorRule> tensor_rule;          // of averages that need more than a weight
  };
  /// Checks a rule's options and returns the settings of this class. @throws ConfigError
  template <class O>
  static Settings checked(const O& options, const char* rule_name) {
    check_options(options, rule_name);
    if constexpr (std::is_base_of_v<MomentumOptions<O>, O>) {
      warn_if_decay(options.momentum(), rule_name);
    }
    return {options.interval(),
            options.update_buffers(),
            options.device(),
            options.precision(),
            options.skip_nonfinite(),
            options.scope(),
            options.start(),
            options.begins_after(),
            options.write_back(),
            options.base_batch_size().has_value(),
            options.shard(),
            options.verify(),
            nullptr};
  }
  AveragedModel(const ModelRef& model, Settings settings, ModuleFactory factory = nullptr);

  /// The formula: the weight of the new value at an update.
  virtual double rule(const Clock& clock) const = 0;
  /// See AverageOptions::filled_after().
  virtual double filled_after(const Clock& /*clock*/) const { return -1; }
  /// The weight that the rule uses for most of a run, after a fast start and before an end at 0.
  /// The warning about an average that cannot move depends on it.
  virtual double lasting_weight() const { return rule(Clock(1)); }

 private:
  friend void update_together(c10::ArrayRef<AveragedModel*> averages, const ModelRef& model);
  static void warn_if_decay(double momentum, const char* rule_name);
  [[noreturn]] void throw_wrong_module() const;

  // All state, so that a new field does not move the members of derived classes.
  std::unique_ptr<AverageCore> core_;
};

/// Calls update_parameters for several averages over one model in one pass: the model's weights are
/// read from memory once, for any rules, intervals and precisions. Does not allocate for up to 8
/// averages.
/// @throws Error as update_parameters does, before any average changes; also for a null pointer,
///   and for an average that is given twice
POLYAK_API void update_together(c10::ArrayRef<AveragedModel*> averages, const ModelRef& model);

}  // namespace polyak
