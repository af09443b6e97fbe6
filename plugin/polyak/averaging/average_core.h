// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "polyak/averaging/averaged_tensors.h"
#include "polyak/averaging/model.h"
#include "polyak/averaging/model_binding.h"
#include "polyak/averaging/model_copy.h"
#include "polyak/averaging/precision.h"
#include "polyak/averaging/step_counter.h"
#include "polyak/averaging/swap_state.h"
#include "polyak/averaging/update_engine.h"

namespace polyak {

/// All state of an AveragedModel except its rule: the owners of its parts, and operations that
/// involve several of them. Call ready() before reading or writing averages; an update calls
/// prepare() instead.
struct AverageCore {
  using Factory = std::function<std::shared_ptr<torch::nn::Module>()>;
  using Move = std::function<at::Tensor(const at::Tensor&)>;
  struct Options {
    int64_t interval;
    bool update_buffers;
    bool skip_nonfinite;
    Precision precision;
    std::optional<c10::Device> device;  // empty: the devices of the model's tensors
  };

  /// @param self the average as a module, which outlives this object; gets the buffer `steps` and,
  ///   from bind(), the child `module`
  AverageCore(torch::nn::Module& self, const Options& options, Factory factory);

  /// Waits for the last update, continues from values that others wrote into the module, and
  /// follows the model's dtypes and devices.
  AverageCore& ready();
  /// The same for operations that a swap forbids. @throws Error naming `what` during a swap
  AverageCore& ready_for(const char* what);
  /// Looks up the model's tensors by name. @throws Error for one that cannot be averaged
  void bind(const ModelRef& model);
  /// Ensures that the plan fits the current model. @throws Error during a swap
  void prepare(const ModelRef& model);
  /// Continues from the module's tensors, including steps, after others wrote them.
  void sync_from_module();
  /// Copies averages that are stored separately into the module's tensors.
  void refresh_module();
  /// Unlike torch::nn::Module::to, keeps tied tensors tied, and does not move steps.
  void move(const Move& moved);
  /// Puts the averaged weights into the model until the returned state is destroyed.
  std::shared_ptr<SwapState> swap_into_model(SwapMode mode);
  bool is_swapped() const { return !swap.expired(); }
  /// Counts a skipped update. @return a warning to log; usually empty
  std::string count_skipped();

  const Options options;
  int64_t skipped = 0;
  StepCounter counter;
  ModelCopy copy;
  ModelBinding binding;
  AveragedTensors tensors;
  StallCheck stall;
  std::weak_ptr<SwapState> swap;  // the active one
  UpdateEngine engine;            // uses the tensors from another thread: destroyed first

 private:
  void follow_model();

  torch::nn::Module& self_;
  Factory factory_;
};

}  // namespace polyak
