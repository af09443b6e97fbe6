// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "polyak/config/options.h"
#include "polyak/trainer/sync_batch_norm.h"

namespace polyak {

/// Projects features, between a backbone and a head. An interface separate from torch::nn::Module,
/// like those in network.h.
class Neck {
 public:
  static constexpr const char* kKind = "neck";
  struct Context {
    int64_t in_channels = 0;  // number of input features
  };
  virtual ~Neck();
  /// @param features float [N, F]
  /// @return float [N, out_channels()]
  virtual at::Tensor forward(const at::Tensor& features) = 0;
  virtual int64_t out_channels() const = 0;
};

struct NonLinearNeckOptions : Options {
  std::optional<int64_t> in_channels;
  int64_t hid_channels = 0;
  int64_t out_channels = 0;
  int64_t num_layers = 2;
  bool with_bias = false;
  bool with_last_bn = true;
  bool with_last_bn_affine = true;
  bool with_last_bias = false;
  bool with_avg_pool = true;
  void visit(OptionVisitor& visitor) override;
};

/// Fully connected layers with batch normalisation, and ReLU between them: the projectors and
/// predictors of SimCLR, BYOL, SimSiam and MoCo v3, like mmpretrain's NonLinearNeck. Layers are
/// named fc0, bn0, fc1, ... `with_bias` applies to all layers but the last.
class NonLinearNeck : public torch::nn::Cloneable<NonLinearNeck>, public Neck {
 public:
  /// @throws ConfigError if in_channels differs from the backbone's features
  NonLinearNeck(NonLinearNeckOptions options, const Context& context);
  void reset() override;
  /// Also takes maps [N, F, H, W], averaged over H and W (with_avg_pool).
  at::Tensor forward(const at::Tensor& features) override;
  int64_t out_channels() const override { return options_.out_channels; }

 private:
  NonLinearNeckOptions options_;
  int64_t in_channels_;
  std::vector<torch::nn::Linear> layers_;
  std::vector<SyncBatchNorm1d> norms_;  // one less than layers_ without with_last_bn
};

struct ClsBatchNormNeckOptions : Options {
  std::optional<int64_t> input_features;
  void visit(OptionVisitor& visitor) override;
};

/// Batch normalisation without weights: normalises features before a linear probe (He et al. 2022,
/// arXiv:2111.06377, appendix A), like mmpretrain's ClsBatchNormNeck.
class ClsBatchNormNeck : public torch::nn::Cloneable<ClsBatchNormNeck>, public Neck {
 public:
  /// @throws ConfigError if input_features differs from the backbone's features
  ClsBatchNormNeck(const ClsBatchNormNeckOptions& options, const Context& context);
  void reset() override;
  at::Tensor forward(const at::Tensor& features) override { return bn_(features); }
  int64_t out_channels() const override { return channels_; }

 private:
  int64_t channels_;
  SyncBatchNorm1d bn_{nullptr};
};

}  // namespace polyak
