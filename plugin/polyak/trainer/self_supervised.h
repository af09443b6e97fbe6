// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/cloneable.h>

#include <memory>

#include "polyak/config/options.h"
#include "polyak/trainer/neck.h"
#include "polyak/trainer/network.h"
#include "polyak/trainer/pair_heads.h"
#include "polyak/trainer/target_network.h"

namespace polyak {

/// A backbone followed by a neck, as children `0` and `1`. Target networks average it under the
/// names of mmpretrain's nn.Sequential.
class Encoder : public torch::nn::Cloneable<Encoder> {
 public:
  Encoder(std::shared_ptr<Backbone> backbone, std::shared_ptr<Neck> neck);
  void reset() override;
  /// @param images float [N, C, H, W]
  /// @return float [N, the neck's out_channels()]
  at::Tensor forward(const at::Tensor& images);

 private:
  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<Neck> neck_;
};

/// Options of algorithms over pairs of views.
struct PairOptions {
  Node backbone;
  Node neck;
  Node head;
  void visit(OptionVisitor& visitor);
};

struct TargetLearnerOptions : TargetOptions {
  using TargetOptions::TargetOptions;
  PairOptions parts;
  void visit(OptionVisitor& visitor) override;
};

struct ByolOptions : TargetLearnerOptions {
  ByolOptions() : TargetLearnerOptions(0.004) {}
};

struct MoCoV3Options : TargetLearnerOptions {
  MoCoV3Options() : TargetLearnerOptions(0.01) {}
};

struct SimSiamOptions : Options {
  PairOptions parts;
  void visit(OptionVisitor& visitor) override { parts.visit(visitor); }
};

/// The networks that algorithms over pairs of views train.
struct PairNetworks {
  PairNetworks(const PairOptions& options, const Algorithm::Context& context);
  /// Makes them children of the algorithm: `backbone`, `neck`, `head`.
  void register_in(torch::nn::Module& owner) const;
  /// Replaces them by copies, which become children of the copied algorithm.
  void clone_into(torch::nn::Module& owner);

  std::shared_ptr<Backbone> backbone;
  std::shared_ptr<Neck> neck;
  std::shared_ptr<PairHead> head;
  std::shared_ptr<Encoder> encoder;  // backbone and neck, shared with these
};

/// BYOL (Grill et al. 2020, arXiv:2006.07733) and MoCo v3 (Chen, Xie, He 2021, arXiv:2104.02057):
/// an online network predicts from one view the output of a target network, its CosineEMA, for the
/// other view of the same images, and vice versa:
///
///     loss = factor * (L(online(view 1), target(view 2)) + L(online(view 2), target(view 1)))
///
/// The target is updated inside the loss, after the online forward passes and before its own, with
/// the weights after the last optimizer step. Tensors are named `backbone.*`, `neck.*`, `head.*`,
/// and `target_net.*` or `momentum_encoder.*`, as in mmpretrain. Where mmpretrain uses SyncBN, the
/// config says `sync_bn: true`. MoCo v3 compares with the keys of all processes.
class TargetLearner : public torch::nn::Cloneable<TargetLearner>, public Algorithm {
 public:
  /// The differences between the two.
  struct Form {
    const char* target_name;
    double factor;
  };
  TargetLearner(const TargetLearnerOptions& options, Form form, const Context& context);
  void reset() override;
  int64_t num_views() const override { return 2; }
  bool learns_without_labels() const override { return true; }
  Losses loss(const Batch& batch) override;
  /// @return the backbone's features, float [N, F]
  at::Tensor predict(const at::Tensor& images) override;
  void after_load(bool resuming) override { target_.after_load(resuming); }
  bool needs_equal_batches() const override { return true; }
  TargetNetwork& target() { return target_; }

 private:
  Form form_;
  PairNetworks networks_;
  TargetNetwork target_;
};

std::shared_ptr<TargetLearner> make_byol(const ByolOptions& options,
                                         const Algorithm::Context& context);
std::shared_ptr<TargetLearner> make_moco_v3(const MoCoV3Options& options,
                                            const Algorithm::Context& context);

/// SimSiam (Chen and He 2021, arXiv:2011.10566): BYOL without a target network. Each branch
/// predicts the output of the other branch for its view, without a gradient:
///
///     loss = (L(online(view 1), online(view 2)) + L(online(view 2), online(view 1))) / 2
class SimSiam : public torch::nn::Cloneable<SimSiam>, public Algorithm {
 public:
  SimSiam(const SimSiamOptions& options, const Context& context);
  void reset() override;
  int64_t num_views() const override { return 2; }
  bool learns_without_labels() const override { return true; }
  Losses loss(const Batch& batch) override;
  /// @return the backbone's features, float [N, F]
  at::Tensor predict(const at::Tensor& images) override;

 private:
  PairNetworks networks_;
};

}  // namespace polyak
