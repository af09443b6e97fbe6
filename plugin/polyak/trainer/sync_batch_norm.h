// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/pimpl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "polyak/averaging/process_group.h"
#include "polyak/core/export.h"
#include "polyak/runtime/runner.h"

namespace polyak {

/// A layer whose statistics of a batch can be those of all processes.
class POLYAK_API SyncedLayer {
 public:
  virtual ~SyncedLayer();
  /// From here on, forward passes in train mode communicate: all processes make the same ones, in
  /// the same order, where a batch may be empty in some. Null: no longer.
  void sync_over(std::shared_ptr<ProcessGroup> processes) { processes_ = std::move(processes); }

 protected:
  SyncedLayer() = default;
  // A copy of a network belongs to no processes yet.
  SyncedLayer(const SyncedLayer& /*other*/) {}
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): nothing is assigned
  SyncedLayer& operator=(const SyncedLayer& /*other*/) { return *this; }

  std::shared_ptr<ProcessGroup> processes_;  ///< null: each process is alone
};

/// What batch normalisation reads and, for the running statistics, changes.
struct BatchNormState {
  at::Tensor weight;        ///< [C]; undefined: 1
  at::Tensor bias;          ///< [C]; undefined: 0
  at::Tensor running_mean;  ///< [C]; undefined: not kept
  at::Tensor running_var;   ///< [C]; undefined: not kept
  double momentum = 0.1;    ///< weight of this batch in the running statistics
  double eps = 1e-5;        ///< added to the variance
};

/// LibTorch's batch normalisation.
/// @param training by the batch, and not by the running statistics
POLYAK_API at::Tensor batch_norm(const at::Tensor& input, const BatchNormState& state,
                                 bool training);

/// Batch normalisation by the mean and the variance over the batches of all processes, with a
/// gradient that takes their part in those into account: Ioffe and Szegedy 2015, arXiv:1502.03167,
/// algorithm 1, with the sums over all processes; like torch.nn.SyncBatchNorm, which is for GPUs.
/// @param input floating point [N, C] or [N, C, ...]; N may be 0 in some processes
/// @throws Error if all batches together have less than two values for each channel
POLYAK_API at::Tensor synced_batch_norm(const at::Tensor& input, const BatchNormState& state,
                                        const std::shared_ptr<ProcessGroup>& processes);

/// @throws Error unless an input has one of the numbers of dimensions
POLYAK_API void check_dims(const at::Tensor& input, int64_t least, int64_t most);

/// LibTorch's BatchNorm with D spatial dimensions, or 0 of them for D = 1, until sync_over() is
/// called. Its tensors and options are the same. (LibTorch does not export what deriving from its
/// own layers needs.)
template <size_t D>
class SyncBatchNormImpl
    : public torch::nn::NormImplBase<D, SyncBatchNormImpl<D>, torch::nn::BatchNormOptions>,
      public SyncedLayer,
      public RunningStatistics {
 public:
  using torch::nn::NormImplBase<D, SyncBatchNormImpl<D>, torch::nn::BatchNormOptions>::NormImplBase;

  /// @param input floating point [N, C, ...]
  /// @return the same shape
  at::Tensor forward(const at::Tensor& input) {
    _check_input_dim(input);
    const auto momentum = this->options.momentum();
    BatchNormState state{this->weight, this->bias, this->running_mean, this->running_var};
    state.eps = this->options.eps();
    state.momentum = momentum.value_or(0.0);
    if (this->is_training() && this->num_batches_tracked.defined()) {
      this->num_batches_tracked += 1;
      if (!momentum) state.momentum = 1.0 / this->num_batches_tracked.template item<double>();
    }
    return processes_ && this->is_training()
               ? synced_batch_norm(input, state, processes_)
               : batch_norm(input, state, this->is_training() || !this->running_mean.defined());
  }

  void begin_mean() override {
    if (!this->running_mean.defined()) return;
    momentum_ = this->options.momentum();
    count_ = this->num_batches_tracked.clone();
    // The first batch replaces the statistics; NaN and infinity would remain even with weight 0.
    this->options.momentum(c10::nullopt);
    this->num_batches_tracked.zero_();
    if (!(this->running_mean + this->running_var).isfinite().all().template item<bool>()) {
      this->reset_running_stats();
    }
  }

  void end_mean() override {
    if (!count_.defined()) return;
    this->options.momentum(momentum_);
    this->num_batches_tracked.copy_(count_);
    count_ = at::Tensor();
  }

 protected:
  /// @throws Error for another number of dimensions
  void _check_input_dim(const at::Tensor& input) override {
    check_dims(input, D == 1 ? 2 : D + 2, D + 2);
  }

 private:
  std::decay_t<decltype(std::declval<torch::nn::BatchNormOptions>().momentum())> momentum_;
  at::Tensor count_;  // defined between begin_mean() and end_mean()
};

using SyncBatchNorm1dImpl = SyncBatchNormImpl<1>;
using SyncBatchNorm2dImpl = SyncBatchNormImpl<2>;
TORCH_MODULE(SyncBatchNorm1d);
TORCH_MODULE(SyncBatchNorm2d);

/// Calls sync_over() of every such layer of a network.
POLYAK_API void sync_batch_norm(const torch::nn::Module& network,
                                const std::shared_ptr<ProcessGroup>& processes);
/// The name of a BatchNorm of a network that is LibTorch's own, which cannot be synchronised; "" if
/// there is none.
POLYAK_API std::string find_unsynced_batch_norm(const torch::nn::Module& network);

}  // namespace polyak
