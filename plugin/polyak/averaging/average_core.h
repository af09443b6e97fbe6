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

/// All state of an AveragedModel but its rule: the owners of its parts, and what takes more than
/// one of them. Before anything reads or writes averages, ready() is asked for; an update asks for
/// prepare() instead.
struct AverageCore {
  using Factory = std::function<std::shared_ptr<torch::nn::Module>()>;
  using Move = std::function<at::Tensor(const at::Tensor&)>;
  struct Options {
    int64_t interval;
    bool update_buffers;
    bool skip_nonfinite;
    Precision precision;
    std::optional<c10::Device> device;  // none: where the model's tensors are
  };

  /// @param self the average as a module, which outlives this: gets the buffer `steps` and, by
  ///   bind(), the child `module`
  AverageCore(torch::nn::Module& self, const Options& options, Factory factory);

  /// Waits for the last update, goes on from what others wrote into the module, and follows the
  /// model's dtypes and devices.
  AverageCore& ready();
  /// The same for what a swap forbids. @throws Error that names it while one is active
  AverageCore& ready_for(const char* what);
  /// Looks the model's tensors up by their names. @throws Error for one that cannot be averaged
  void bind(const ModelRef& model);
  /// Sees to it that the plan fits the model as it is now. @throws Error while a swap is active
  void prepare(const ModelRef& model);
  /// After others wrote the module's tensors, steps among them: goes on from those.
  void sync_from_module();
  /// Gives the module's tensors the values of averages that are kept apart.
  void refresh_module();
  /// Unlike torch::nn::Module::to it leaves tied tensors tied, and steps where it is.
  void move(const Move& moved);
  /// Puts the averaged weights into the model until the state goes.
  std::shared_ptr<SwapState> swap_into_model(SwapMode mode);
  bool is_swapped() const { return !swap.expired(); }
  /// Counts an update that was skipped. @return what to warn of; empty for most
  std::string count_skipped();

  const Options options;
  int64_t skipped = 0;
  StepCounter counter;
  ModelCopy copy;
  ModelBinding binding;
  AveragedTensors tensors;
  StallCheck stall;
  std::weak_ptr<SwapState> swap;  // the active one
  UpdateEngine engine;            // works on the tensors from another thread: goes before them

 private:
  void follow_model();

  torch::nn::Module& self_;
  Factory factory_;
};

}  // namespace polyak
