// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>

#include <memory>

#include "polyak/averaging/process_group.h"
#include "polyak/config/options.h"
#include "polyak/trainer/neck.h"
#include "polyak/trainer/network.h"

namespace polyak {

/// Compares the output of an online branch for one view with the output of another branch for a
/// second view of the same images.
class PairHead {
 public:
  static constexpr const char* kKind = "pair_head";
  struct Context {
    const Catalog* catalog = nullptr;
    int64_t in_channels = 0;                            // width of both projections
    std::shared_ptr<ProcessGroup> processes = nullptr;  // null: one
  };
  virtual ~PairHead();
  /// @param online float [N, D], projections of one view
  /// @param target float [N, D], projections of the other view; they get no gradient
  /// @return a scalar tensor
  virtual at::Tensor loss(const at::Tensor& online, const at::Tensor& target) = 0;
};

struct CosineSimilarityLossOptions : Options {
  double shift_factor = 0.0;
  double scale_factor = 1.0;
  void visit(OptionVisitor& visitor) override;
};

/// Mean over the batch of shift_factor - scale_factor * cos(prediction, target); both are [N, D].
/// With the defaults in [-1, 1].
class CosineSimilarityLoss : public Loss {
 public:
  explicit CosineSimilarityLoss(CosineSimilarityLossOptions options);
  at::Tensor compute(const at::Tensor& prediction, const at::Tensor& target) const override;

 private:
  CosineSimilarityLossOptions options_;
};

struct LatentPredictHeadOptions : Options {
  Node predictor;
  Node loss;
  void visit(OptionVisitor& visitor) override;
};

/// Predicts the target's projection from the online projection: the head of BYOL and SimSiam. The
/// predictor's tensors are named `predictor.*`.
class LatentPredictHead : public torch::nn::Cloneable<LatentPredictHead>, public PairHead {
 public:
  LatentPredictHead(const LatentPredictHeadOptions& options, const Context& context);
  void reset() override;
  at::Tensor loss(const at::Tensor& online, const at::Tensor& target) override;

 private:
  std::shared_ptr<Neck> predictor_;
  std::shared_ptr<Loss> loss_;
};

struct MoCoV3HeadOptions : Options {
  Node predictor;
  Node loss;
  double temperature = 1.0;
  void visit(OptionVisitor& visitor) override;
};

/// Finds each prediction's own image among the targets of the batch: cross entropy over cosine
/// similarities divided by `temperature` (InfoNCE; Chen, Xie, He 2021, arXiv:2104.02057). The
/// default `loss` is CrossEntropyLoss with loss_weight 2 * temperature, as in the paper.
class MoCoV3Head : public torch::nn::Cloneable<MoCoV3Head>, public PairHead {
 public:
  MoCoV3Head(const MoCoV3HeadOptions& options, const Context& context);
  void reset() override;
  at::Tensor loss(const at::Tensor& online, const at::Tensor& target) override;

 private:
  std::shared_ptr<ProcessGroup> processes_;  // whose keys are compared too
  std::shared_ptr<Neck> predictor_;
  std::shared_ptr<Loss> loss_;
  double temperature_;
};

}  // namespace polyak
